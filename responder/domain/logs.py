"""Log records without secrets, whoever writes them: vendors' libraries log what they were answered."""

import logging
from typing import Any

from responder.domain.redaction import redact

_FORMATTER = logging.Formatter()


def clean_logs() -> None:
    """From now on every record of this process is redacted as it is made, its traceback too. Repeatable."""
    make = logging.getLogRecordFactory()
    if getattr(make, "cleans", False):
        return

    def cleaned(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            record.msg, record.args = redact(record.getMessage()), None
        except (TypeError, ValueError):
            return record  # a wrong format: logging itself complains of it
        if record.exc_info and record.exc_info[0]:
            record.exc_text = redact(_FORMATTER.formatException(record.exc_info))
        return record

    cleaned.cleans = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(cleaned)
