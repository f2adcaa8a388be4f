"""What a command or a page printed, as typed results. Text in, frozen models out; neither I/O nor guesses.

Output that cannot be understood gives None and a `problem` in words: never zero, never healthy. Work and
memory stay linear in the text, because a host under attack may print anything.
"""

from responder.domain.parsing.parsed import Parsed

__all__ = ["Parsed"]
