"""Our side of a check: proxies for the student's objects, over any channel that carries messages to a `Worker`."""

from __future__ import annotations

import _thread
import math
import signal
import sys
import threading
import time
from typing import Any, Callable, Iterator, Protocol

import torch
from torch import Tensor

from course_lib.checks import fingerprint
from course_lib.checks.codec import CodecError, Encoder, HandleRef, Named, decode, inverse_order, pack, unpack
from course_lib.checks.outcomes import (
    ForbiddenReached,
    NotAttempted,
    OutOfLimits,
    StudentError,
    Wrong,
)
from course_lib.checks.replies import check_gradients, check_reply
from course_lib.checks.describe import describe, describe_call
from course_lib.checks.surroundings import restore_surroundings, surroundings, usual_surroundings
from course_lib.checks.worker import Worker


class Session:
    """A conversation with one worker.

    Args:
        channel: takes the bytes of a request, returns the bytes of the reply. It may raise `OutOfLimits`.
    """

    def __init__(self, channel: Callable[[bytes], bytes]) -> None:
        self._channel = channel
        self.forget()

    def forget(self, forbid: tuple[str, ...] = (), largest: int | None = None) -> None:
        """Leave nothing of the last check on our side."""
        self.forbid, self.largest = forbid, largest
        self.transcript: list[str] = []  # a digest of every answer, in order
        self.last_call: str | None = None
        self.last_answer: str | None = None

    def begin(
        self, seed: int, substitute: dict[str, str] | None = None, forbid: tuple[str, ...] = (), largest: int | None = None
    ) -> None:
        """Start a check: handles of the last one are forgotten, global random generators are seeded there."""
        self.forget(forbid, largest)
        self._request({"op": "begin", "seed": seed, "substitute": substitute or {}}, [])

    def named(self, name: str) -> Remote:
        """A proxy for an object of the student's namespace (or of the setup cells, on the student's side)."""
        return Remote(self, {"named": name}, name)

    # --- calls ------------------------------------------------------------------------------------------------------

    def call(self, target: dict, words: str, args: tuple, kwargs: dict) -> Any:
        encoder = Encoder(self._no_handle)
        try:
            message = {
                "op": "call",
                "target": target,
                "args": [encoder.encode(_outgoing(a)) for a in args],
                "kwargs": {key: encoder.encode(_outgoing(a)) for key, a in kwargs.items()},
                "forbid": list(self.forbid),
                "largest": self.largest,
            }
        except CodecError as error:
            raise TypeError(f"a check calls {words} with an argument that cannot cross: {error}") from None
        differentiable = torch.is_grad_enabled()
        grad = [i for i, t in enumerate(encoder.originals) if differentiable and t is not None and t.requires_grad]
        message["grad"] = grad
        self.last_call = describe_call(words, args, kwargs)
        self.last_answer = None
        generators = [a for a in (*args, *kwargs.values()) if type(a) is torch.Generator]
        reply, tensors = self._request(message, encoder.tensors, len(generators))
        self._raise_for(reply, words)
        if "tape" in reply and grad:
            number, tracked = reply["tape"]
            tape = _Tape(self, number, [encoder.originals[i] for i in grad], [encoder.orders[i] for i in grad])
            connected = _Connect.apply(tape, [tensors[i] for i in tracked], *(encoder.originals[i] for i in grad))
            for i, tensor in zip(tracked, connected):
                tensors[i] = tensor
        result = self._recorded(self._decoded(reply["ok"], tensors))
        self.last_answer = describe(result)
        if reply["changed"]:
            names = " and ".join(f"`{name}`" for name in reply["changed"])
            raise Wrong(
                "an argument was changed",
                f"Your code changed its argument {names} in place. Work on a copy: the caller may still need the original.",
            )
        if reply["global_random"]:
            raise Wrong(
                "random numbers",
                "Your code drew from the global random generator. Pass `generator=generator` to the function that draws.",
            )
        for generator, node in zip(generators, reply["generators"]):
            state = self._decoded(node, tensors)
            if type(state) is not torch.Generator:
                raise _unreadable(CodecError("a malformed message: a generator"))
            generator.set_state(state.get_state())
        return result

    def ask(self, message: dict, words: str) -> Any:
        """A question about a handle: an attribute, its items, its length."""
        reply, tensors = self._request(message, [])
        self._raise_for(reply, words)
        return self._recorded(self._decoded(reply["ok"], tensors))

    def vjp(self, tape: int, cotangents: list[Tensor]) -> tuple:
        reply, tensors = self._request({"op": "vjp", "tape": tape}, [c.contiguous() for c in cotangents])
        self._raise_for(reply, "the backward pass")
        return self._recorded(self._decoded(reply["ok"], tensors))

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _request(self, message: dict, tensors: list[Tensor], generators: int = 0) -> tuple[dict, list[Tensor]]:
        try:
            reply, answers = unpack(self._channel(pack(message, tensors)))
            return check_reply(reply, answers, generators), answers
        except CodecError as error:
            raise _unreadable(error) from None

    def _decoded(self, node: Any, tensors: list[Tensor]) -> Any:
        try:
            return decode(node, tensors, self._incoming)
        except CodecError as error:
            raise _unreadable(error) from None

    def _recorded(self, result: Any) -> Any:
        self.transcript.append(fingerprint.digest(result))
        return result

    def _raise_for(self, reply: dict, words: str) -> None:
        if "ok" in reply:
            return
        if "missing" in reply:
            raise NotAttempted(f"`{reply['missing']}` is not defined: run the cell that defines it, then this one.")
        if "forbidden" in reply:
            self.transcript.append("forbidden")
            raise ForbiddenReached(reply["forbidden"])
        if "too_large" in reply:
            self.transcript.append("too large")
            raise OutOfLimits("memory", reply["too_large"])
        if "unsendable" in reply:
            self.transcript.append("unsendable")
            raise Wrong("the result", f"What {words} returned could not be read: {reply['unsendable']}.")
        error = reply["error"]
        line = error["line"]
        # torch raises NotImplementedError too, for instance where an operator does not take integers: that is no stub.
        if error["type"] == "NotImplementedError" and (not error["message"] or line and "NotImplementedError" in line["text"]):
            where = f"`{line['function']}`" if line else words
            raise NotAttempted(f"{where} is still the empty stub.")
        self.transcript.append(f"error {error['type']}")
        allocator = "DefaultCPUAllocator" in error["message"]  # it raises a RuntimeError
        if allocator or any(base in ("MemoryError", "OutOfMemoryError") for base in error["bases"]):
            raise OutOfLimits("memory", f"{words} asked for more memory than there is.")
        raise StudentError(error["type"], error["bases"], error["message"], error["line"])

    def _incoming(self, ref: HandleRef | Named) -> Remote:
        if not isinstance(ref, HandleRef):
            raise CodecError("a malformed message: a reply names no objects")
        return Remote(self, {"handle": [ref.number, ref.type_name, ref.words]}, ref.words)

    @staticmethod
    def _no_handle(value: Any) -> HandleRef:
        raise CodecError(
            f"{type(value).__name__} stays on our side; make it on the student's side with a function of a setup cell"
        )


def _unreadable(error: CodecError) -> Wrong:
    """No worker sends such a reply: something in the student's process wrote it."""
    return Wrong("the result", f"What came back could not be read: {error}.")


def _outgoing(value: Any) -> Any:
    """Proxies among the arguments become the names and handles they stand for."""
    if type(value) is Remote:
        target = value._target
        return Named(target["named"]) if "named" in target else HandleRef(*target["handle"])
    if type(value) in (list, tuple):
        return type(value)(_outgoing(item) for item in value)
    if type(value) is dict:
        return {key: _outgoing(item) for key, item in value.items()}
    return value


class Remote:
    """Stands for an object on the student's side. It can be called, asked for attributes, walked through, measured.

    Calls are differentiable: with inputs that require a gradient the result is a node of our own autograd graph,
    whose backward pass runs on the student's side.
    """

    __slots__ = ("_session", "_target", "_words")

    def __init__(self, session: Session, target: dict, words: str) -> None:
        self._session, self._target, self._words = session, target, words

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._session.call(self._target, self._words, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or "named" in self._target:
            raise AttributeError(name)
        value = self._ask({"op": "attribute", "name": name}, f"the attribute `{name}` of {self._words}")
        if type(value) is Remote:
            value._words = f"{self._words.removeprefix('an object of type ')}.{name}"
        return value

    def __iter__(self) -> Iterator[Any]:
        return iter(self._ask({"op": "items"}, f"walking through {self._words}"))

    def __len__(self) -> int:
        try:
            return self._ask({"op": "length"}, f"the length of {self._words}")
        except StudentError as error:
            if error.type_name == "TypeError":  # it has none: list() asks for it and goes on
                raise TypeError(error.message) from None
            raise

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        raise TypeError(f"{self._words} has no value to compare")

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<{self._words}>"

    def _ask(self, message: dict, words: str) -> Any:
        if "named" in self._target:
            raise TypeError(f"{self._words} can only be called")
        return self._session.ask({**message, "number": self._target["handle"][0]}, words)


class _Tape:
    def __init__(self, session: Session, number: int, inputs: list[Tensor], orders: list[list[int] | None]) -> None:
        self.session, self.number, self.orders = session, number, orders
        self.inputs = [x.detach() for x in inputs]

    def gradients(self, cotangents: list[Tensor]) -> list[Tensor | None]:
        answer = self.session.vjp(self.number, cotangents)
        try:
            return check_gradients(answer, self.inputs, lambda g, i: g.permute(inverse_order(self.orders[i])) if self.orders[i] else g)
        except (CodecError, RuntimeError) as error:  # the second: axes that cannot be put back in order
            raise _unreadable(CodecError(str(error))) from None


class _Connect(torch.autograd.Function):
    """Puts a finished remote call into our graph; its backward pass is one more request."""

    @staticmethod
    def forward(ctx, tape, outputs, *inputs):
        ctx.tape = tape
        return tuple(outputs)

    @staticmethod
    def backward(ctx, *cotangents):
        return (None, None, *ctx.tape.gradients(list(cotangents)))


class Channel(Protocol):
    """Carries a request to a worker and its reply back, under a time limit; either may raise `OutOfLimits`."""

    def start(self, seconds: float, fresh: bool = False) -> None: ...

    def __call__(self, request: bytes) -> bytes: ...


class LocalChannel:
    """A worker in this very process, under a time limit. Its answers are those a process boundary would give."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.seconds_left = math.inf  # of the student's own time
        self._theirs = surroundings()

    def start(self, seconds: float, fresh: bool = False) -> None:
        """A check begins: its student's code has this many seconds. `fresh` asks for a new process, which a kernel cannot give."""
        self.seconds_left = seconds

    def __call__(self, request: bytes) -> bytes:
        ours = surroundings()
        restore_surroundings(self._theirs)
        try:
            return self._timed(request)
        finally:
            self._theirs = surroundings()
            restore_surroundings(ours)

    def _timed(self, request: bytes) -> bytes:
        if self.seconds_left == math.inf or threading.current_thread() is not threading.main_thread():
            return self.worker.handle(request)
        started = time.monotonic()
        reply = _Alarm(max(self.seconds_left, 0.01)).guard(lambda: self.worker.handle(request))
        self.seconds_left -= time.monotonic() - started
        if reply is None:
            raise OutOfLimits(
                "time", "Your code did not finish in time. Look for a loop that never ends, or for work done again and again."
            )
        return reply


class _Interrupt(KeyboardInterrupt):
    """Raised in the middle of the student's code, by the alarm or by the person at the keyboard."""


class _Alarm:
    """Interrupts the main thread after some seconds, on every system that Python runs on.

    It interrupts again and again until the work has ended, since student code may catch an interrupt. A signal that
    arrives when the work has just ended finds our own handler, which lets it pass: none is left over for the notebook.
    """

    AGAIN = 0.2  # seconds between interrupts
    PATIENCE = 2  # interrupts that may be caught

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._over = False  # the work has ended
        self._rings = False  # the alarm, and not a person, sends signals
        self._interrupted = False
        self._times = 0
        self._stop = threading.Event()
        self._clock = threading.Thread(target=self._ring, daemon=True)

    def _ring(self) -> None:
        wait = self._seconds
        while not self._stop.wait(wait):
            self._rings = True
            if hasattr(signal, "pthread_kill"):  # a true signal ends a sleeping system call too
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            else:
                _thread.interrupt_main()
            wait = self.AGAIN

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._rings and self._over:
            return
        self._interrupted = self._rings
        if self._rings:
            self._times += 1
            if self._times > self.PATIENCE:
                self._next_line_raises(frame)
        raise _Interrupt

    def _next_line_raises(self, frame: Any) -> None:
        """For code that catches each interrupt: raise again at the next line it comes to, which is the one that caught this."""

        def trace(frame: Any, event: str, arg: Any) -> Any:
            if event == "line":
                raise _Interrupt
            return trace

        while frame is not None and frame.f_code is not _Alarm.guard.__code__:
            frame.f_trace = trace
            frame = frame.f_back
        sys.settrace(trace)

    def guard(self, work: Callable[[], bytes]) -> bytes | None:
        """The result of `work`, or None if the alarm interrupted it."""
        tracing = sys.gettrace()
        previous = signal.signal(signal.SIGINT, self._on_signal)
        try:
            self._clock.start()
            try:
                result = work()
            finally:
                self._over = True
            return None if self._interrupted else result
        except _Interrupt:
            self._over = True
            if self._interrupted:
                return None
            raise KeyboardInterrupt from None  # a person's
        except KeyboardInterrupt as error:  # raised by the code itself
            raise StudentError("KeyboardInterrupt", ["KeyboardInterrupt"], str(error)[:80], None) from None
        finally:
            if self._times > self.PATIENCE:
                sys.settrace(tracing)
            self._stop.set()
            self._clock.join()  # no signal is sent after this; one under way is handled before the handler changes
            signal.signal(signal.SIGINT, previous if previous is not None else signal.default_int_handler)


class local_session:
    """`with local_session(student, setup) as (session, channel)`: a session in this process; what it changes around itself is restored."""

    def __init__(self, student: dict[str, Any], setup: dict[str, Any]) -> None:
        self.worker = Worker(student, setup)

    def __enter__(self) -> tuple[Session, LocalChannel]:
        self._before = surroundings()
        channel = LocalChannel(self.worker)
        usual_surroundings()
        return Session(channel), channel

    def __exit__(self, *exc: object) -> None:
        self.worker.end_substitution()
        restore_surroundings(self._before)
