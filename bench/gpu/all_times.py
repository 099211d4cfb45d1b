"""The last stage: time against everyone else for all other shapes, as time allows."""

from __future__ import annotations

from ..cases import all_cases, quick_cases, sweeps
from .stage import Part, Setup, Skipped
from .times import parts_for


def parts(setup: Setup) -> list[Part]:
    """Real cases, then the growth with each dimension; nothing stands in for them on a CPU."""
    quick = quick_cases()
    cases = [case for case in all_cases() if case not in quick]
    cases += [case for sweep in sweeps().values() for case in sweep.values()]
    if not setup.is_gpu:
        return [Part("everything", lambda: _skip(len(cases)))]
    return parts_for(setup, list(dict.fromkeys(cases)))


def _skip(number: int) -> str:
    raise Skipped(f"{number} cases need a GPU")
