"""The flows. Whoever loads one logs no secrets from then on."""

from responder.domain.logs import clean_logs

clean_logs()
