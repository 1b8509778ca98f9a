"""Of runs that are the same computation one is decoded, the leader; the others are made from it.

Leader is the first run with a valid result of its own (or else a valid copy), wherever it belongs;
without one the first run that has begun, or that is asked for. A run that is forced leads the
others that are. A run of an experiment with `replicate: true` is always decoded, and may lead
others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fastdllm.workflow.runs import Project, Run
from fastdllm.workflow.status import RunStatus, State, inspect, origin_of


def share_out(
    statuses: Sequence[RunStatus],
    project: Project,
    *,
    look: Callable[[Run], RunStatus] = inspect,
    is_wanted: Callable[[Run], bool] = lambda _: True,
) -> list[RunStatus]:
    """Tell of each selected run whether it is decoded or made from another, and what follows.

    Args:
        statuses: of the selected runs, with `is_repeated` where a run is forced.
        look: tells the status of a run outside of the selection.
        is_wanted: whether a run is among the targets; such a one is decoded first.
    """
    selected = {status.run.name: status for status in statuses}
    shared = {status.run.computation for status in statuses if not status.run.is_replicated}
    classes: dict[str, list[RunStatus]] = {}
    for run in project.all_runs:
        if run.computation in shared:
            status = selected.get(run.name) or look(run)
            classes.setdefault(run.computation, []).append(status)
    for members in classes.values():
        leader = _leader(members, [m for m in members if m.run.name in selected], is_wanted)
        if leader is not None:
            by_name = {member.run.name: member for member in members}
            for member in members:
                if member.run.name in selected:
                    selected[member.run.name] = _placed(member, leader, by_name)
    return list(selected.values())


def _leader(
    members: Sequence[RunStatus],
    selected: Sequence[RunStatus],
    is_wanted: Callable[[Run], bool],
) -> RunStatus | None:
    usable = [member for member in members if _is_usable(member)]
    decoded = [member for member in usable if origin_of(member.record, member.run) is None]
    current = next(iter(decoded or usable), None)
    forced = [member for member in selected if member.is_repeated]
    if forced:
        return current if current in forced else _first(forced)
    if current is not None:
        return current
    running = next((member for member in members if member.state is State.RUNNING), None)
    if running is not None:
        return running
    missing = [member for member in selected if not member.state.has_result]
    return _first([member for member in missing if is_wanted(member.run)] or missing)


def _first(members: Sequence[RunStatus]) -> RunStatus | None:
    """The first that is decoded in any case, or else has begun, or else the first of all."""
    replicated = [member for member in members if member.run.is_replicated]
    # An eval that was killed, or failed, has kept its finished chunks.
    begun = [member for member in members if member.state in (State.INTERRUPTED, State.FAILED)]
    return next(iter(replicated or begun or members), None)


def _is_usable(status: RunStatus) -> bool:
    """Whether others can be made from its result, which says itself what was computed."""
    is_same = (status.record or {}).get("computation") == status.run.computation
    return status.state.has_result and is_same


def _placed(status: RunStatus, leader: RunStatus, by_name: Mapping[str, RunStatus]) -> RunStatus:
    origin_name = origin_of(status.record, status.run)
    is_own = status.state.has_result and origin_name is None and not status.is_repeated
    is_leader = status.run.name == leader.run.name
    if is_leader or is_own or status.run.is_replicated or status.state is State.RUNNING:
        return status
    origin = by_name.get(origin_name or "")
    if status.state.has_result and origin is not None and _is_older(status, origin):
        reason = f"copied from an earlier result of {origin_name}"
        status = replace(status, state=State.STALE, reason=reason)
    follows = origin_name == leader.run.name and leader.is_repeated
    placed = replace(status, leader=leader.run, is_repeated=status.is_repeated or follows)
    if placed.is_to_be_made and leader.state is State.RUNNING:
        reason = f"same as {leader.run.name}, which is running"
        return replace(placed, state=State.RUNNING, reason=reason)
    return placed


def _is_older(copy: RunStatus, origin: RunStatus) -> bool:
    """Whether a run was decoded again since the copy was made."""
    if not _is_usable(origin) or origin_of(origin.record, origin.run) is not None:
        return False
    return (copy.record or {}).get("timestamp") != (origin.record or {}).get("timestamp")
