"""The demo: synthetic voices that ship with the package, and a tour over HTTP that uses them."""
