"""The command line: each command parses, calls the Vault once and renders what it answers.

`app` puts the commands together, `command` gives every one its settings, ``--json`` and error handling, `render` makes
the tables. Modules import nothing heavy at their top, so that ``voicevault --help`` answers at once.
"""

from __future__ import annotations

from voicevault.cli.app import main as main
