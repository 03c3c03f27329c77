"""How a command ends: exit codes, and what to try after an error."""

from __future__ import annotations

INTERNAL = 1
REJECTED = 10
NOBODY = 11
PARTIAL = 12
WRONG_ANSWER = 13
INTERRUPTED = 130

EXIT_CODES = {
    0: "done",
    INTERNAL: "an error inside voicevault",
    2: "wrong usage, setting or manifest",
    3: "a recording cannot be used",
    4: "not found",
    5: "it collides with what is there",
    6: "the model folder cannot be loaded",
    7: "the database failed",
    8: "the index cannot answer",
    9: "too much work is waiting",
    REJECTED: "verify: the claim was rejected",
    NOBODY: "identify: it is nobody in the collection",
    PARTIAL: "import: it finished, but rejected recordings",
    WRONG_ANSWER: "demo: an answer was wrong",
    INTERRUPTED: "interrupted",
}
"""1 to 9 are the `exit_code` of `voicevault.errors`; the others are answers, not errors."""

HINTS = {
    "COLLECTION_NOT_FOUND": "See `voicevault collections list`, or make it: `voicevault collections create NAME`.",
    "COLLECTION_EXISTS": "See `voicevault collections list`.",
    "SPEAKER_NOT_FOUND": "See who is there: `voicevault speakers list`.",
    "ENROLLMENT_NOT_FOUND": "See the enrollments: `voicevault speakers show SPEAKER`.",
    "NOT_ENROLLED": "Enroll a recording first: `voicevault enroll SPEAKER FILE`.",
    "DUPLICATE_RECORDING": "To go on with such files give `--duplicates skip`, `replace` or `add`.",
    "MODEL_NOT_FOUND": "See `voicevault models list`, and bring one in with `voicevault models import` or `pull`.",
    "AUDIO_NOT_KEPT": "Give --leave-out to go on without them.",
    "MODEL_EXISTS": "Give another --name, or --replace.",
    "MODEL_MISMATCH": "See `voicevault models list`; import the collection's model, or use a new collection.",
    "NO_THRESHOLD": "Give one with --threshold, a cosine between -1 and 1.",
    "DATABASE_UNAVAILABLE": "See which database is meant: `voicevault settings`.",
    "DATABASE_BUSY": "Try again, or wait longer with --lock-timeout SECONDS.",
    "AUDIO_TOO_LONG": "Raise the limit with --max-seconds, or cut the recording.",
    "AUDIO_TOO_LARGE": "Raise the limit with --max-bytes, or cut the recording.",
}
"""What to do on the command line, by error code; the messages themselves hold for Python and HTTP too."""
