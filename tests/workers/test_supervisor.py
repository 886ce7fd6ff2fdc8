"""The rules by which workers are started, drained and killed: no process runs here, and time is a number.

`Play` keeps, beside the state machine, what its actions would have done to real processes, and checks after each
event what must hold whatever happens.
"""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from underlay.workers._serve._supervisor import (
    Action,
    Ask,
    Beat,
    Begin,
    Cause,
    Ceased,
    Connections,
    Drain,
    Event,
    Exited,
    Failing,
    Finish,
    GiveUp,
    Kill,
    Policy,
    Ready,
    Resize,
    Restart,
    Start,
    State,
    Stop,
    Supervisor,
    Tick,
    Unusable,
)

POLICY = Policy(workers=2, drain_s=30, kill_after_s=10, start_s=60, good_after_s=10)


def begun(policy: Policy = POLICY, now: float = 0.0) -> Supervisor:
    """A supervisor whose workers are all ready."""
    supervisor = Supervisor(policy)
    for action in supervisor.on(Begin(), now):
        assert isinstance(action, Start)
        supervisor.on(Ready(action.number), now)
    return supervisor


def test_a_restart_has_a_new_worker_ready_before_an_old_one_drains() -> None:
    supervisor = begun()
    assert supervisor.on(Restart(), 20) == [Start(3)]
    assert supervisor.on(Tick(), 21) == []
    assert supervisor.on(Ready(3), 22) == [Drain(1), Start(4)]
    assert supervisor.on(Ready(4), 23) == [Drain(2)]
    assert supervisor.is_settled


def test_a_restart_whose_new_worker_crashes_leaves_the_old_ones() -> None:
    supervisor = begun()
    now = 20.0
    supervisor.on(Restart(), now)
    for number, pause_s in enumerate((0.5, 1, 2, 4), start=3):
        assert supervisor.on(Exited(number), now) == []
        assert supervisor.next_wake(now) == now + pause_s
        now += pause_s
        assert supervisor.on(Tick(), now) == [Start(number + 1)]
    assert [worker.state for worker in supervisor][:2] == [State.READY, State.READY]


def test_a_drained_worker_is_asked_to_stop_when_its_last_connection_has_ended() -> None:
    supervisor = begun()
    supervisor.on(Resize(-1), 20)
    assert supervisor.on(Connections(2, 0), 20.1) == []  # it may still be accepting
    assert supervisor.on(Ceased(2), 20.2) == []
    assert supervisor.on(Connections(2, 3), 20.3) == []
    assert supervisor.on(Connections(2, 0), 20.4) == [Ask(2)]
    assert supervisor.on(Exited(2), 20.5) == []


def test_a_drain_ends_at_its_deadline_with_a_request_and_then_with_a_kill() -> None:
    supervisor = begun()
    assert supervisor.on(Resize(-1), 20) == [Drain(2)]
    supervisor.on(Ceased(2), 20)
    assert supervisor.next_wake(20) == 50
    assert supervisor.on(Tick(), 49.9) == []
    assert supervisor.on(Tick(), 50) == [Ask(2)]
    assert supervisor.next_wake(50) == 60
    assert supervisor.on(Tick(), 60) == [Kill(2)]
    assert supervisor.next_wake(60) is None


def test_a_worker_that_cannot_stop_accepting_alone_is_asked_to_stop_at_once() -> None:
    supervisor = begun()
    supervisor.on(Resize(-1), 20)
    assert supervisor.on(Ceased(2, completely=False), 20) == [Ask(2)]


def test_the_first_crash_after_good_service_is_mended_at_once() -> None:
    supervisor = begun()
    assert supervisor.on(Exited(1), 20) == [Start(3)]
    assert supervisor.crashes == 1


def test_the_pause_after_crashes_doubles_up_to_its_cap_and_good_service_forgets_it() -> None:
    supervisor = begun(Policy(workers=1, backoff_first_s=1, backoff_most_s=5, good_after_s=10))
    now = 0.0
    pauses_s = []
    for number in range(1, 7):
        supervisor.on(Exited(number), now)
        pauses_s.append(supervisor.not_before - now)
        now = supervisor.not_before
        assert supervisor.on(Tick(), now) == [Start(number + 1)]
    assert pauses_s == [1, 2, 4, 5, 5, 5]
    supervisor.on(Ready(7), now)
    supervisor.on(Tick(), now + 10)
    assert supervisor.crashes_in_a_row == 0


def test_workers_that_die_together_are_one_crash() -> None:
    supervisor = Supervisor(Policy(workers=4))
    supervisor.on(Begin(), 0)
    for number in range(1, 5):
        supervisor.on(Exited(number), 1.0 + number / 100)
    assert (supervisor.crashes_in_a_row, supervisor.crashes) == (1, 4)


def test_a_program_that_cannot_run_at_the_first_start_ends_the_group_with_status_2() -> None:
    supervisor = Supervisor(POLICY)
    supervisor.on(Begin(), 0)
    assert supervisor.on(Unusable(1), 0.1) == [Ask(1), Ask(2)]
    supervisor.on(Exited(1), 0.2)
    assert supervisor.on(Exited(2), 0.2) == [Finish(2)]


def test_a_program_that_cannot_run_any_more_does_not_end_a_group_that_serves() -> None:
    supervisor = begun()
    supervisor.on(Restart(), 20)
    assert supervisor.on(Unusable(3), 20.1) == []
    assert supervisor.on(Exited(3), 20.2) == []
    assert not supervisor.stopping


def test_a_program_of_which_no_first_worker_ever_listened_ends_the_group_with_status_1() -> None:
    supervisor = Supervisor(POLICY)
    supervisor.on(Begin(), 0)
    assert supervisor.on(Exited(1), 0.1) == []  # the other may do better
    assert supervisor.on(Tick(), 0.6) == [Start(3)]
    assert supervisor.on(Exited(2), 0.7) == [Ask(3)]
    assert supervisor.has_never_listened
    assert supervisor.on(Exited(3), 0.8) == [Finish(1)]


def test_a_program_that_is_too_slow_at_the_first_start_ends_the_group_when_its_workers_have_gone() -> None:
    supervisor = Supervisor(POLICY)
    supervisor.on(Begin(), 0)
    supervisor.on(Tick(), 60)
    assert supervisor.on(Exited(1), 60.1) == []
    assert supervisor.on(Exited(2), 60.1) == [Finish(1)]


def test_a_program_of_which_one_worker_listened_is_started_again_for_ever() -> None:
    supervisor = Supervisor(POLICY)
    supervisor.on(Begin(), 0)
    supervisor.on(Exited(1), 0.1)
    supervisor.on(Ready(2), 0.2)
    for now in range(100, 2000, 100):
        for number in list(supervisor.workers):
            supervisor.on(Exited(number), now)
        supervisor.on(Tick(), now + 60)
    assert not supervisor.stopping
    assert len(supervisor.workers) == 2


def test_a_restart_gives_a_program_that_never_listened_another_chance() -> None:
    supervisor = Supervisor(POLICY)
    supervisor.on(Begin(), 0)
    supervisor.on(Exited(1), 0.1)
    assert supervisor.on(Restart(), 0.2) == [Ask(2), Start(3), Start(4)]
    assert supervisor.on(Exited(2), 0.3) == []
    assert supervisor.on(Exited(3), 0.4) == []
    assert supervisor.on(Exited(4), 0.4) == [Finish(1)]


def test_a_stop_in_the_middle_of_a_restart_ends_all_and_starts_none() -> None:
    supervisor = begun()
    supervisor.on(Restart(), 20)
    supervisor.on(Ready(3), 21)  # 1 drains, 4 starts
    assert set(supervisor.on(Stop(), 22)) == {Drain(2), Drain(3), Ask(4)}
    for number in (1, 2, 3):
        assert supervisor.on(Exited(number), 23) == []
    assert supervisor.on(Exited(4), 23) == [Finish(0)]


def test_a_second_stop_does_not_wait_for_connections_and_a_third_kills() -> None:
    supervisor = begun()
    supervisor.on(Stop(), 20)
    assert supervisor.on(Stop(), 21) == [Ask(1), Ask(2)]
    assert supervisor.on(Stop(), 22) == [Kill(1, at_once=True), Kill(2, at_once=True)]


def test_a_loop_without_a_sign_of_life_is_replaced() -> None:
    supervisor = begun(Policy(workers=1, health_s=5))
    supervisor.on(Beat(1), 3)
    assert supervisor.on(Tick(), 7.9) == []
    actions = supervisor.on(Tick(), 13)
    assert actions == [GiveUp(1, Cause.SILENT), Ask(1), Start(2)]


def test_a_worker_that_does_not_listen_in_time_is_ended_and_counted_as_a_crash() -> None:
    supervisor = Supervisor(Policy(workers=1, start_s=60))
    supervisor.on(Begin(), 0)
    assert supervisor.on(Tick(), 60) == [GiveUp(1, Cause.SLOW), Ask(1)]
    assert supervisor.crashes_in_a_row == 1


def test_a_failing_worker_finishes_what_it_has_and_another_is_started() -> None:
    supervisor = begun()
    assert supervisor.on(Failing(1), 20) == [GiveUp(1, Cause.FAILING), Drain(1), Start(3)]


def test_there_is_always_one_worker_left() -> None:
    supervisor = begun()
    for _ in range(5):
        supervisor.on(Resize(-1), 20)
    assert supervisor.wanted == 1


class Play:
    """A supervisor, and what its actions would have done; checks what must always hold."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.supervisor = Supervisor(policy)
        self.now = 0.0
        self.alive: dict[int, str] = {}  # starting, ready, draining, asked or killed
        self.ever: set[int] = set()
        self.finished = False

    def on(self, event: Event) -> None:
        if isinstance(event, Exited):
            self.alive.pop(event.number, None)
        accepting_before = self.accepting()
        is_rolling = isinstance(event, (Restart, Ready, Tick)) and not self.supervisor.stopping
        if isinstance(event, Ready) and self.alive.get(event.number) == "starting":
            self.alive[event.number] = "ready"
            accepting_before += 1
        actions = self.supervisor.on(event, self.now)
        for action in actions:
            self.do(action)
        if is_rolling and not self.policy.health_s:
            # No rule of its own lets too few accept: only a crash, a stop or somebody's word does.
            assert self.accepting() >= min(accepting_before, self.supervisor.wanted)
        assert sum(state in ("starting", "ready") for state in self.alive.values()) <= self.supervisor.wanted + 1
        assert self.supervisor.wanted >= 1

    def accepting(self) -> int:
        return sum(state == "ready" for state in self.alive.values())

    def do(self, action: Action) -> None:
        assert not self.finished
        match action:
            case Start(number):
                assert not self.supervisor.has_never_listened
                assert number not in self.ever
                assert not self.supervisor.stopping
                assert self.now >= self.supervisor.not_before
                self.ever.add(number)
                self.alive[number] = "starting"
            case Drain(number):
                assert self.alive[number] == "ready"
                self.alive[number] = "draining"
            case Ask(number):
                assert self.alive[number] in ("starting", "ready", "draining")
                self.alive[number] = "asked"
            case Kill(number):
                assert self.alive[number] == "asked"
                self.alive[number] = "killed"
            case GiveUp(number):
                assert self.alive[number] in ("starting", "ready")
            case Finish():
                assert not self.alive
                self.finished = True

    def behave(self, seconds: float) -> None:
        """Let time go by, with workers that do what they are asked, and end."""
        end = self.now + seconds
        for _ in range(1000):
            for number, state in list(self.alive.items()):
                match state:
                    case "starting":
                        self.on(Ready(number))
                    case "draining":
                        self.on(Ceased(number))
                        self.on(Connections(number, 0))
                    case "asked" | "killed":
                        self.on(Exited(number))
            wake = self.supervisor.next_wake(self.now)
            if self.finished or wake is None or wake > end:
                return
            self.now = max(self.now, wake)
            self.on(Tick())
        raise AssertionError("it wakes without end")


def _events() -> st.SearchStrategy[object]:
    number = st.integers(1, 14)
    return st.one_of(
        st.floats(0, 40).map(lambda s: s),  # seconds that go by
        number.map(Ready),
        number.map(Exited),
        number.map(Ceased),
        number.map(Failing),
        number.map(Beat),
        st.builds(Connections, number, st.integers(0, 2)),
        st.just(Restart()),
        st.integers(-2, 2).map(Resize),
    )


# Twice the same sum, once rounded to just less, woke it without end.
@example(1, 0.0, [22.173041913998848, Exited(1)], False)
# Fewer are wanted while several start in the place of old ones, which still serve.
@example(4, 0.0, [Ready(1), Ready(2), Restart(), Resize(-2)], False)
@settings(max_examples=400)
@given(st.integers(1, 4), st.sampled_from([0.0, 5.0]), st.lists(_events(), max_size=60), st.booleans())
def test_whatever_happens_no_rule_is_broken_and_well_behaved_workers_settle(
    workers: int, health_s: float, events: list[object], stops: bool
) -> None:
    play = Play(Policy(workers=workers, drain_s=30, kill_after_s=10, health_s=health_s))
    play.on(Begin())
    for event in events:
        if isinstance(event, float):
            play.now += event
            play.on(Tick())
        elif not isinstance(event, Exited | Ready) or event.number in play.alive:
            play.on(event)  # type: ignore[arg-type]
    if stops:
        play.on(Stop())
        play.behave(100)
        assert play.finished
        return
    play.behave(1000)
    if play.supervisor.has_never_listened:
        assert play.finished
    elif not health_s:  # in `behave` nobody gives a sign of life
        assert play.supervisor.is_settled
        assert play.accepting() == play.supervisor.wanted
        assert set(play.alive.values()) == {"ready"}


@given(st.integers(1, 4), st.lists(st.floats(0, 40), max_size=20))
def test_workers_that_never_answer_are_all_gone_by_the_two_deadlines(workers: int, pauses_s: list[float]) -> None:
    play = Play(Policy(workers=workers, drain_s=30, kill_after_s=10))
    play.on(Begin())
    for pause_s in pauses_s:
        for number in [number for number, state in play.alive.items() if state == "starting"]:
            play.on(Ready(number))
        play.now += pause_s
        play.on(Restart())
    stopped_at = play.now
    play.on(Stop())
    while (wake := play.supervisor.next_wake(play.now)) is not None:
        play.now = wake
        play.on(Tick())
    assert set(play.alive.values()) <= {"killed"}
    assert play.now <= stopped_at + 40.000001  # two sums, each rounded
