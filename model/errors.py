"""Expected errors, with their exit codes and HTTP statuses.

    RelearnError
    ├── UserInputError       exit 2, HTTP 422   user input
    │   ├── ConfigError      exit 2, HTTP 422   one or several settings
    │   ├── DataError        exit 2, HTTP 422   unusable images or labels
    │   └── NotFoundError    exit 2, HTTP 404   missing run, version, file or class
    ├── InfrastructureError  exit 3, HTTP 503   disk, permission, port, server, device
    └── CorruptDataError     exit 4, HTTP 500   stored data that was changed or damaged
        └── InvalidModelOutputError   exit 4, HTTP 500   a network that fails or returns no probabilities

A message is one line: what was wrong, what was got, what is accepted. `code` is its identifier for
programs; the command line prints `error[code]: message`, the API puts both into its error envelope.
"""

from collections.abc import Sequence

from relearn.model.text import to_one_line


class RelearnError(Exception):
    """Base class of all expected errors; never raised itself."""

    exit_code = 1
    http_status = 500
    code = "error"

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(to_one_line(message))
        if code is not None:
            self.code = code


class UserInputError(RelearnError):
    exit_code = 2
    http_status = 422
    code = "user_input"


class ConfigError(UserInputError):
    """All problems of a configuration in one error."""

    code = "config"

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


class DataError(UserInputError):
    code = "data"


class NotFoundError(UserInputError):
    http_status = 404
    code = "not_found"


class InfrastructureError(RelearnError):
    exit_code = 3
    http_status = 503
    code = "infrastructure"


class CorruptDataError(RelearnError):
    exit_code = 4
    code = "corrupt_data"


class StopSignal(SystemExit):
    """Exit by a signal: unlike a `SystemExit` of a network's code, no error of the network."""


class InvalidModelOutputError(CorruptDataError):
    """A network that failed, or returned anything but probabilities."""

    code = "invalid_model_output"

    # The text of `cause` may contain a path, so clients get the `public_message` alone.
    def __init__(self, public_message: str, cause: BaseException | None = None) -> None:
        super().__init__(f"{public_message}: {cause}" if cause and str(cause) else public_message)
        self.public_message = public_message
