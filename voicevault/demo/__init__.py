"""The demo: synthetic voices that ship with the package, and a tour over HTTP that uses them.

`tour` does the work and returns what the server answered, `make_voices` made the voices, `PROVENANCE.md` says how.
"""
