"""Handler forms: which arguments a function gets, and that it really gets them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Optional

import attrs
import pytest

from limehub.config import Config
from limehub.decoding import UndecodableBody
from limehub.errors import PluginError
from limehub.events import Event, LimeObjectEvent, Message
from limehub.plugins.forms import form_of
from limehub.plugins.lime import Application, Worker
from limehub.plugins.services import Services, build_services
from limehub.testing import Outbox, make_event, run_handler

if TYPE_CHECKING:
    from nowhere import LimeApplication

    from limehub import Publisher

DEAL = {"id": 7, "limetype": "deal", "values": {"value": 10}}


def call(function: Callable[..., Any], body: Any = DEAL, **given: Any) -> Any:
    """Run *function* on one event of acme; returns what it returned."""
    config = Config(applications=("acme", "globex"))
    return run_handler(function, body, config=config, application="acme", **given).returned


def services() -> Services:
    return build_services(
        config=Config(), settings={}, publisher=Outbox(), logger_name="solution_x"
    )


def test_three_required_positional_parameters_are_limes_manual_form_whatever_their_names() -> None:
    def handler(w, b, m):
        return w, b, m

    form = form_of(handler)
    worker, body, message = call(handler)
    assert form.manual
    assert form.description == "(worker, body, message) manual"
    assert isinstance(worker, Worker)
    assert worker.applications == ("acme", "globex")
    assert body == DEAL
    assert isinstance(message, Message)


def test_limes_own_names_are_limes_form_too() -> None:
    def handler(worker, body, message):
        message.ack()

    assert run_handler(handler, DEAL).settled == ("ack",)
    assert run_handler(lambda w, b, m: None, DEAL).settled == ()
    assert form_of(handler).manual


def test_extra_parameters_with_defaults_leave_limes_form_as_it_is() -> None:
    assert form_of(lambda w, b, m, retries=3: None).manual


def test_a_wrapper_that_takes_only_args_gets_limes_three() -> None:
    def wrapper(*args, **kwargs):
        return args

    assert form_of(wrapper).manual
    assert len(call(wrapper)) == 3


def test_three_injectable_names_are_injected_unless_the_first_is_worker() -> None:
    def injected(event, settings, publisher):
        return event, settings, publisher

    event, settings, publisher = call(injected, settings={"a": 1})
    assert not form_of(injected).manual
    assert isinstance(event, Event)
    assert settings == {"a": 1}
    assert publisher.application == "acme"
    assert form_of(lambda worker, event, message: None).manual


def test_three_parameters_of_which_one_is_unknown_are_limes_form() -> None:
    assert form_of(lambda body, app, message: None).manual


def test_one_parameter_of_any_name_is_the_decoded_body() -> None:
    assert call(lambda deal: deal) == DEAL
    assert call(lambda body: body) == DEAL
    assert form_of(lambda deal: None).description == "(deal: body)"


def test_one_parameter_named_event_or_annotated_so_is_the_event() -> None:
    def by_annotation(it: Event):
        return it

    def by_lime_annotation(it: LimeObjectEvent):
        return it.verb

    assert isinstance(call(lambda event: event), Event)
    assert isinstance(call(by_annotation), Event)
    assert call(by_lime_annotation) == "update"
    assert form_of(by_lime_annotation).event_class is LimeObjectEvent
    assert form_of(by_annotation).event_class is Event


def test_one_parameter_with_another_injectable_name_is_that() -> None:
    assert isinstance(call(lambda message: message), Message)
    assert call(lambda application: application.identifier) == "acme"


def test_everything_injectable_is_injected_by_name() -> None:
    def handler(event, body, message, worker, application, config, settings, publisher, logger):
        return locals()

    given = call(handler, settings={"a": 1})
    assert isinstance(given["event"], Event)
    assert given["body"] == DEAL
    assert isinstance(given["message"], Message)
    assert isinstance(given["worker"], Worker)
    assert isinstance(given["application"], Application)
    assert isinstance(given["config"], Config)
    assert given["settings"] == {"a": 1}
    assert given["logger"] is logging.getLogger(__name__)


def test_annotations_win_over_names() -> None:
    def handler(message: Event, event: Message):
        return message, event

    first, second = call(handler)
    assert isinstance(first, Event)
    assert isinstance(second, Message)


def test_annotations_that_only_type_checkers_know_count_by_their_last_word() -> None:
    def handler(body: Mapping, app: LimeApplication, out: Publisher, log: logging.Logger):
        return app, out, log

    app, out, log = call(handler)
    assert isinstance(app, Application)
    assert out.application == "acme"
    assert log.name == __name__


def test_optional_annotations_mean_the_class_inside() -> None:
    def handler(one: Event | None, two: Optional[Message]):  # noqa: UP045 - both spellings
        return one, two

    one, two = call(handler)
    assert isinstance(one, Event)
    assert isinstance(two, Message)


def test_keyword_only_parameters_are_injected_by_keyword() -> None:
    def handler(event, *, settings, application):
        return event, settings, application.identifier

    event, settings, application = call(handler, settings={"x": 2})
    assert isinstance(event, Event)
    assert (settings, application) == ({"x": 2}, "acme")


def test_a_handler_without_parameters_is_called_without_any() -> None:
    assert call(lambda: "ran") == "ran"
    assert not form_of(lambda: None).reads_body


def test_an_unknown_parameter_is_an_error_that_names_it_and_what_is_known() -> None:
    with pytest.raises(PluginError, match=r"'setings'.*did you mean 'settings'.*publisher, logger"):
        form_of(lambda event, setings: None)


def test_a_parameter_with_a_default_keeps_it_and_says_so() -> None:
    def handler(event, application=None, colour="red"):
        return application, colour

    assert call(handler) == (None, "red")
    assert len(form_of(handler).warnings) == 1
    assert "'application' has a default" in form_of(handler).warnings[0]


def test_partials_keep_their_arguments_without_a_warning() -> None:
    def handler(event, settings, mode):
        return settings, mode

    fixed = functools.partial(handler, settings={"own": 1}, mode="fast")
    assert call(fixed) == ({"own": 1}, "fast")
    assert form_of(fixed).warnings == ()


def test_bound_methods_and_callable_objects_are_handlers() -> None:
    class Totals:
        def add(self, event):
            return self, event

        def __call__(self, body, application):
            return body, application.identifier

    totals = Totals()
    assert call(totals.add)[0] is totals
    assert call(totals) == (DEAL, "acme")


def test_a_decorator_that_uses_wraps_is_seen_through() -> None:
    def decorated(function):
        @functools.wraps(function)
        def inner(*args, **kwargs):
            return ("wrapped", function(*args, **kwargs))

        return inner

    @decorated
    def handler(event: Event, settings):
        return settings

    assert call(handler, settings={"a": 1}) == ("wrapped", {"a": 1})


def test_async_functions_and_generators_are_refused() -> None:
    async def later(event):
        return event

    async def stream(event):
        yield event

    def generator(event):
        yield event

    class Async:
        async def __call__(self, event):
            return event

    for handler in (later, stream, functools.partial(later), Async()):
        with pytest.raises(PluginError, match="is async"):
            form_of(handler)
    with pytest.raises(PluginError, match="is a generator"):
        form_of(generator)


def test_what_cannot_be_called_or_seen_is_refused() -> None:
    with pytest.raises(PluginError, match="not callable"):
        form_of("handler")
    with pytest.raises(PluginError, match="cannot be seen"):
        form_of(dict)


def test_a_handler_that_reads_the_body_never_runs_on_one_that_cannot_be_decoded() -> None:
    ran = []
    event, message = make_event(b"\xff{")
    for handler in (
        ran.append,
        lambda body, event: ran.append(body),
        lambda w, b, m: ran.append(b),
    ):
        form = form_of(handler)
        assert form.reads_body
        with pytest.raises(UndecodableBody):
            form.bind(services())(event, message)
    assert ran == []


def test_a_handler_that_takes_only_the_event_decodes_when_it_asks() -> None:
    form = form_of(lambda event: event.raw_body)
    event, message = make_event(b"\xff{")
    assert not form.reads_body
    assert form.bind(services())(event, message) == b"\xff{"


def test_a_publisher_in_a_handler_publishes_for_the_application_of_the_event() -> None:
    outbox = Outbox()

    def handler(publisher, application):
        publisher.publish("own.v1", {"n": 1})
        publisher.publish("own.v1", {"n": 2}, application="globex")
        publisher.publish("own.v1", {"n": 3}, exchange="other")
        application.publish("own.v1", {"n": 4})

    call(handler, publisher=outbox)
    assert [sent.application for sent in outbox.published] == ["acme", "globex", None, "acme"]
    assert outbox.published[2].exchange == "other"
    assert outbox.published[3].mandatory is False


@attrs.frozen
class Values:
    value: float
    closed_at: datetime | None = None


@attrs.frozen
class Deal:
    id: int
    values: Values
    limetype: str = "deal"


def test_an_annotation_that_is_an_attrs_class_gets_the_body_as_that_class() -> None:
    def handler(deal: Deal, settings):
        return deal

    form = form_of(handler)
    assert call(handler) == Deal(id=7, values=Values(value=10.0))
    assert form.event_type is Deal
    assert form.reads_body
    assert form.description == "(deal: Deal, settings)"


def test_the_event_type_option_builds_the_body_of_unannotated_handlers() -> None:
    body = {"id": 1, "values": {"value": 1, "closed_at": "2026-11-21T10:00:00+01:00"}, "new": 1}
    event, message = make_event(body)
    for handler in (lambda it: it, lambda event: it_is(event), lambda w, b, m: b):
        built = form_of(handler, Deal).bind(services())(event, message)
        assert built.values.closed_at == datetime.fromisoformat("2026-11-21T10:00:00+01:00")


def it_is(thing: Any) -> Any:
    return thing


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"id": "7", "values": {"value": 1}}, "'7' is not int"),
        ({"id": True, "values": {"value": 1}}, "True is not int"),
        ({"id": 7, "values": {"value": "12"}}, "'12' is not float"),
        ({"id": 7, "values": {}}, "required field missing"),
        ({"id": 7, "values": {"value": 1, "closed_at": "soon"}}, "closed_at"),
        ([], "Deal"),
        ("text", "Deal"),
    ],
)
def test_a_body_that_does_not_fit_its_class_is_undecodable_and_says_why(
    body: Any, words: str
) -> None:
    event, message = make_event(body)
    ran = []

    def handler(deal: Deal):
        ran.append(deal)

    with pytest.raises(UndecodableBody, match=words):
        form_of(handler).bind(services())(event, message)
    assert ran == []


def test_an_event_type_that_no_parameter_takes_is_an_error() -> None:
    def handler(event: Event, settings):
        return event

    with pytest.raises(PluginError, match="event_type=Deal, but no parameter takes it"):
        form_of(handler, Deal)


def test_two_different_event_types_are_an_error() -> None:
    def handler(deal: Values):
        return deal

    with pytest.raises(PluginError, match="one body cannot be two classes: Deal and Values"):
        form_of(handler, Deal)


def test_a_class_that_cattrs_cannot_build_is_an_error_at_load() -> None:
    @attrs.frozen
    class Odd:
        lock: Callable[[int], str]
        thing: object = None

    with pytest.raises(PluginError, match="event_type Odd cannot be built"):
        form_of(lambda body: body, Odd)
