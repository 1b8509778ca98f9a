"""Decides which of the runs that are the same computation, the leader, is decoded; others copy it.

The leader is the first with a valid result of its own (or else a valid copy), selected or not;
without one, the first run that has begun, or that is a target, and that has not failed. A run
is never made from its own copy: where only copies are left of a run that is to be made, it is
decoded, and they follow. A run that is forced leads the others that are.

A run of an experiment with `replicate: true` is always decoded. If it is the only one of a
computation, it is not a leader, so that one of the others is decoded as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fastdllm.workflow.project.artifacts import is_older, origin_of
from fastdllm.workflow.project.runs import Project, Run
from fastdllm.workflow.status.run_status import RunStatus, State, inspect


def assign_leaders(
    statuses: Sequence[RunStatus],
    project: Project,
    *,
    look: Callable[[Run], RunStatus] = inspect,
    is_wanted: Callable[[Run], bool] = lambda _: True,
) -> list[RunStatus]:
    """Return the states of the selected runs, with the leader of each that is not decoded itself.

    Args:
        statuses: of the selected runs, with `is_repeated` where a run is forced.
        look: returns the status of a run outside the selection.
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
        lone = _lone_replicate(members)
        others = [_without_replicate(member, lone) for member in members if member is not lone]
        chosen = [member for member in others if member.run.name in selected]
        leader = _leader(others, chosen, is_wanted)
        by_name = {member.run.name: member for member in others}
        for member in chosen:
            is_selected = leader is not None and leader.run.name in selected
            placed = (
                member
                if leader is None
                else _with_leader(member, leader, by_name, is_selected=is_selected)
            )
            selected[member.run.name] = placed
    return list(selected.values())


def _lone_replicate(members: Sequence[RunStatus]) -> RunStatus | None:
    """Return the only member with `replicate: true`, None if there are none or several."""
    replicated = [member for member in members if member.run.is_replicated]
    return replicated[0] if len(replicated) == 1 else None


def _without_replicate(status: RunStatus, lone: RunStatus | None) -> RunStatus:
    """Return the status as stale if it is a copy of the lone replicate, which confirms nothing."""
    is_copy = lone is not None and origin_of(status.record, status.run) == lone.run.name
    if lone is None or not is_copy:
        return status
    reason = f"copied from {lone.run.name}; replicate: true there asks for another decoding"
    return replace(status, state=State.STALE, reason=reason, record=None)


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
        return current if current in forced else _first_to_decode(forced)
    if current is not None:
        return _origin_to_make(current, members, selected, is_wanted) or current
    for state in (State.RUNNING, State.QUEUED):
        busy = next((member for member in members if member.state is state), None)
        if busy is not None:
            return busy
    missing = [member for member in selected if not member.state.has_result]
    return _first_to_decode([member for member in missing if is_wanted(member.run)] or missing)


def _first_to_decode(members: Sequence[RunStatus]) -> RunStatus | None:
    """Return the first that is always decoded, or else has begun, or else the first of all.

    Failed ones come last: the cause may be their own, and must not hold up the others.
    """
    hopeful = [m for m in members if m.state is not State.FAILED or m.resumes] or members
    replicated = [member for member in hopeful if member.run.is_replicated]
    # A killed eval has kept its finished chunks.
    begun = [m for m in hopeful if m.state is State.INTERRUPTED or m.resumes]
    return next(iter(replicated or begun or hopeful), None)


def _origin_to_make(
    current: RunStatus,
    members: Sequence[RunStatus],
    selected: Sequence[RunStatus],
    is_wanted: Callable[[Run], bool],
) -> RunStatus | None:
    """Return the run that `current` was copied from if it is to be decoded (again)."""
    name = origin_of(current.record, current.run)
    origin = next((member for member in members if member.run.name == name), None)
    if origin is None or origin.state.has_result:
        return None
    if origin.state is State.FAILED and not origin.resumes:
        return None
    is_made = origin in selected and is_wanted(origin.run)
    return origin if is_made or origin.state in (State.RUNNING, State.QUEUED) else None


def _is_usable(status: RunStatus) -> bool:
    """Whether others can be copied from its result, by the computation recorded in it."""
    is_same = (status.record or {}).get("computation") == status.run.computation
    return status.state.has_result and is_same


def _with_leader(
    status: RunStatus,
    leader: RunStatus,
    by_name: Mapping[str, RunStatus],
    *,
    is_selected: bool,
) -> RunStatus:
    """Return a member with its leader, unless it is decoded itself.

    Args:
        is_selected: whether the leader is among the selected runs.
    """
    origin_name = origin_of(status.record, status.run)
    is_own = status.state.has_result and origin_name is None and not status.is_repeated
    is_leader = status.run.name == leader.run.name
    is_origin = status.run.name == origin_of(leader.record, leader.run)
    is_decoded = is_leader or is_own or status.run.is_replicated
    # Copied from its own copy, it would never have been decoded.
    is_decoded |= is_origin and not leader.is_to_be_made
    if is_decoded or status.state is State.RUNNING:
        return status
    origin = by_name.get(origin_name or "")
    if origin is not None and is_older(status.record, origin.record):
        reason = f"copied from an earlier result of {origin_name}"
        status = replace(status, state=State.STALE, reason=reason)
    follows = origin_name == leader.run.name and leader.is_to_be_made
    placed = replace(status, leader=leader.run, is_repeated=status.is_repeated or follows)
    is_busy = leader.state in (State.RUNNING, State.QUEUED)
    # A call that follows the leader's job makes its copies behind it.
    if placed.is_to_be_made and is_busy and not (leader.is_adopted and is_selected):
        reason = f"same as {leader.run.name}, which is {leader.state}"
        return replace(placed, state=State.RUNNING, reason=reason)
    return placed
