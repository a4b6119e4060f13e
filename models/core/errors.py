"""Every failure that Sluice names.

SluiceError          exit 1   one line: what is, what must be, where, what to do next
├── UserError        exit 2   a mistake in what was asked or given: a bad key, a missing or broken file
├── StageError       exit 1   a stage could not do its work
├── Unavailable      exit 1   something outside does not answer: a server, a sandbox, a disk
└── Refused          exit 3   the gate said no

No traceback is ever shown for one of these.
"""


class SluiceError(Exception):
    exit_code = 1


class UserError(SluiceError):
    exit_code = 2


class StageError(SluiceError):
    pass


class Unavailable(SluiceError):
    pass


class Refused(SluiceError):
    exit_code = 3
