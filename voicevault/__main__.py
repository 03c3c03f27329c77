"""``python -m voicevault`` is the command line."""

from voicevault.cli import main

if __name__ == "__main__":
    main()
