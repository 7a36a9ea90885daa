"""What a client can ask on a channel, method by method; answers have RabbitMQ's codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from limehub.broker.refusals import ChannelRefusal, ConnectionRefusal
from limehub.broker.session.methods import Arguments
from limehub.broker.state.exchanges import Exchange
from limehub.broker.state.queue import Queue

if TYPE_CHECKING:
    from limehub.broker.session.channel import ChannelSession

__all__ = ["COMMANDS"]

Command = Callable[["ChannelSession", Arguments], None]


def _answer(
    session: ChannelSession, arguments: Arguments, name: str, *, kept: bool, **answer: Any
) -> None:
    """Answer unless the client wants none; *kept*: not before it is on disk."""
    if arguments.get("nowait"):
        return
    if kept:
        session.answer_when_kept(name, **answer)
    else:
        session.send(name, **answer)


def _clean(name: str) -> str:
    """RabbitMQ drops line ends from the names of what is declared."""
    return name.replace("\r", "").replace("\n", "")


def _queue_named(session: ChannelSession, name: str) -> Queue:
    """Return the queue; "" is the last one that was declared on the channel."""
    name = name or session.state.last_queue
    if not name:
        raise ChannelRefusal(404, "no previously declared queue")
    return session.state.vhost.queue(name, session.connection)


# Channel and connection


def _channel_close(session: ChannelSession, _arguments: Arguments) -> None:
    session.close()


def _channel_flow(session: ChannelSession, arguments: Arguments) -> None:
    if not arguments["active"]:
        raise ConnectionRefusal(540, "active=false")
    session.send("channel.flow-ok", active=True)


def _access_request(session: ChannelSession, _arguments: Arguments) -> None:
    session.send("access.request-ok", ticket=1)


# Exchanges


def _exchange_declare(session: ChannelSession, arguments: Arguments) -> None:
    vhost, name = session.state.vhost, _clean(arguments["exchange"])
    if arguments["passive"]:
        exchange = vhost.exchange(name)
    else:
        exchange = vhost.declare_exchange(
            name,
            arguments["type"],
            durable=arguments["durable"],
            auto_delete=arguments["auto_delete"],
            internal=arguments["internal"],
            arguments=arguments["arguments"],
        )
    _answer(session, arguments, "exchange.declare-ok", kept=exchange.durable)


def _exchange_delete(session: ChannelSession, arguments: Arguments) -> None:
    name = _clean(arguments["exchange"])
    session.state.vhost.delete_exchange(name, if_unused=arguments["if_unused"])
    _answer(session, arguments, "exchange.delete-ok", kept=True)


def _exchange_bind(session: ChannelSession, arguments: Arguments) -> None:
    vhost = session.state.vhost
    source, target = _clean(arguments["source"]), _clean(arguments["destination"])
    if not target:
        raise ChannelRefusal(403, "operation not permitted on the default exchange")
    vhost.bind(source, vhost.exchange(target), arguments["key"], arguments["arguments"])
    _answer(session, arguments, "exchange.bind-ok", kept=True)


def _exchange_unbind(session: ChannelSession, arguments: Arguments) -> None:
    source, target = _clean(arguments["source"]), _clean(arguments["destination"])
    if not source or not target:
        raise ChannelRefusal(403, "operation not permitted on the default exchange")
    _unbind(session, source, session.state.vhost.exchanges.get(target), arguments)
    _answer(session, arguments, "exchange.unbind-ok", kept=True)


def _unbind(
    session: ChannelSession, source: str, target: Queue | Exchange | None, arguments: Arguments
) -> None:
    """Take a binding away; an end that is gone has taken it along."""
    vhost = session.state.vhost
    if target is not None and source in vhost.exchanges:
        vhost.unbind(source, target, arguments["key"], arguments["arguments"])


# Queues


def _queue_declare(session: ChannelSession, arguments: Arguments) -> None:
    vhost, name = session.state.vhost, _clean(arguments["queue"])
    if arguments["passive"]:
        queue = vhost.queue(name, session.connection)
        queue.touch()
    else:
        queue = vhost.declare_queue(
            name,
            durable=arguments["durable"],
            auto_delete=arguments["auto_delete"],
            owner=session.connection if arguments["exclusive"] else None,
            by=session.connection,
            arguments=arguments["arguments"],
        )
    session.state.last_queue = queue.name
    _answer(
        session,
        arguments,
        "queue.declare-ok",
        kept=queue.durable,
        queue=queue.name,
        messages=len(queue.backlog),
        consumers=len(queue.consumers),
    )


def _queue_bind(session: ChannelSession, arguments: Arguments) -> None:
    vhost, source = session.state.vhost, _clean(arguments["exchange"])
    if not source:
        raise ChannelRefusal(403, "operation not permitted on the default exchange")
    name = arguments["queue"] or session.state.last_queue
    if name:
        vhost.exchange(source)
    queue = _queue_named(session, name)
    vhost.bind(source, queue, _binding_key(arguments, queue), arguments["arguments"])
    _answer(session, arguments, "queue.bind-ok", kept=True)


def _queue_unbind(session: ChannelSession, arguments: Arguments) -> None:
    source = _clean(arguments["exchange"])
    if not source:
        raise ChannelRefusal(403, "operation not permitted on the default exchange")
    name = arguments["queue"] or session.state.last_queue
    if not name or name in session.state.vhost.queues:
        _unbind(session, source, _queue_named(session, name), arguments)
    _answer(session, arguments, "queue.unbind-ok", kept=True)


def _binding_key(arguments: Arguments, queue: Queue) -> str:
    """Without names of queue and key, the last queue is bound by its own name."""
    key: str = arguments["key"]
    return key if key or arguments["queue"] else queue.name


def _queue_purge(session: ChannelSession, arguments: Arguments) -> None:
    count = _queue_named(session, arguments["queue"]).purge()
    _answer(session, arguments, "queue.purge-ok", kept=True, messages=count)


def _queue_delete(session: ChannelSession, arguments: Arguments) -> None:
    count = session.state.vhost.delete_queue(
        _clean(arguments["queue"]) or session.state.last_queue,
        session.connection,
        if_unused=arguments["if_unused"],
        if_empty=arguments["if_empty"],
    )
    _answer(session, arguments, "queue.delete-ok", kept=True, messages=count)


# Messages


def _basic_qos(session: ChannelSession, arguments: Arguments) -> None:
    if arguments["size"]:
        raise ConnectionRefusal(540, f"prefetch_size!=0 ({arguments['size']})")
    session.state.qos(arguments["count"], shared=arguments["global"])
    session.send("basic.qos-ok")


def _basic_consume(session: ChannelSession, arguments: Arguments) -> None:
    queue = _queue_named(session, arguments["queue"])
    if queue.settings.quorum and session.state.prefetch:
        raise ConnectionRefusal(540, f"{queue.where} does not support global qos")
    consumer = session.state.consume(
        queue,
        tag=arguments["tag"],
        no_ack=arguments["no_ack"],
        exclusive=arguments["exclusive"],
        arguments=arguments["arguments"],
    )
    _answer(session, arguments, "basic.consume-ok", kept=False, tag=consumer.tag)


def _basic_cancel(session: ChannelSession, arguments: Arguments) -> None:
    session.state.cancel(arguments["tag"])
    _answer(session, arguments, "basic.cancel-ok", kept=False, tag=arguments["tag"])


def _basic_get(session: ChannelSession, arguments: Arguments) -> None:
    queue = _queue_named(session, arguments["queue"])
    got = session.state.get(queue, no_ack=arguments["no_ack"])
    if got is None:
        session.send("basic.get-empty")
        return
    tag, message, left = got
    session.answer_get(tag, message, left)


def _basic_reject(session: ChannelSession, arguments: Arguments) -> None:
    session.state.nack(arguments["delivery_tag"], requeue=arguments["requeue"])


def _basic_ack(session: ChannelSession, arguments: Arguments) -> None:
    session.state.ack(arguments["delivery_tag"], multiple=arguments["multiple"])


def _basic_nack(session: ChannelSession, arguments: Arguments) -> None:
    session.state.nack(
        arguments["delivery_tag"], multiple=arguments["multiple"], requeue=arguments["requeue"]
    )


def _basic_recover(session: ChannelSession, arguments: Arguments) -> None:
    _basic_recover_async(session, arguments)
    session.send("basic.recover-ok")


def _basic_recover_async(session: ChannelSession, arguments: Arguments) -> None:
    if not arguments["requeue"]:
        raise ConnectionRefusal(540, "requeue=false")
    session.state.recover()


# Modes


def _confirm_select(session: ChannelSession, arguments: Arguments) -> None:
    session.state.select_confirms()
    _answer(session, arguments, "confirm.select-ok", kept=False)


def _tx_select(session: ChannelSession, _arguments: Arguments) -> None:
    session.state.select_tx()
    session.send("tx.select-ok")


def _tx_commit(session: ChannelSession, _arguments: Arguments) -> None:
    session.state.commit()
    session.answer_when_kept("tx.commit-ok")


def _tx_rollback(session: ChannelSession, _arguments: Arguments) -> None:
    session.state.rollback()
    session.send("tx.rollback-ok")


COMMANDS: dict[str, Command] = {
    "channel.close": _channel_close,
    "channel.flow": _channel_flow,
    "access.request": _access_request,
    "exchange.declare": _exchange_declare,
    "exchange.delete": _exchange_delete,
    "exchange.bind": _exchange_bind,
    "exchange.unbind": _exchange_unbind,
    "queue.declare": _queue_declare,
    "queue.bind": _queue_bind,
    "queue.unbind": _queue_unbind,
    "queue.purge": _queue_purge,
    "queue.delete": _queue_delete,
    "basic.qos": _basic_qos,
    "basic.consume": _basic_consume,
    "basic.cancel": _basic_cancel,
    "basic.get": _basic_get,
    "basic.ack": _basic_ack,
    "basic.nack": _basic_nack,
    "basic.reject": _basic_reject,
    "basic.recover": _basic_recover,
    "basic.recover-async": _basic_recover_async,
    "confirm.select": _confirm_select,
    "tx.select": _tx_select,
    "tx.commit": _tx_commit,
    "tx.rollback": _tx_rollback,
}
