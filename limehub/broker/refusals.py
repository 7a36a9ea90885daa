"""What the broker refuses: AMQP reply codes with RabbitMQ's texts."""

from __future__ import annotations

__all__ = ["ChannelRefusal", "ConnectionRefusal", "Refusal"]

_NAMES = {
    311: "CONTENT_TOO_LARGE",
    312: "NO_ROUTE",
    320: "CONNECTION_FORCED",
    403: "ACCESS_REFUSED",
    404: "NOT_FOUND",
    405: "RESOURCE_LOCKED",
    406: "PRECONDITION_FAILED",
    501: "FRAME_ERROR",
    502: "SYNTAX_ERROR",
    503: "COMMAND_INVALID",
    504: "CHANNEL_ERROR",
    505: "UNEXPECTED_FRAME",
    506: "RESOURCE_ERROR",
    530: "NOT_ALLOWED",
    540: "NOT_IMPLEMENTED",
    541: "INTERNAL_ERROR",
}


class Refusal(Exception):
    """Something that the client must not do; *code* is AMQP's, *text* ours without its name."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    @property
    def reply_text(self) -> str:
        """The reply text as RabbitMQ writes it, cut to the 255 bytes of a short string."""
        whole = f"{_NAMES[self.code]} - {self.text}".encode(errors="surrogateescape")
        return whole[:255].decode(errors="ignore")


class ChannelRefusal(Refusal):
    """Closes the channel."""


class ConnectionRefusal(Refusal):
    """Closes the connection."""
