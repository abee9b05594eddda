"""What a template declares, and a command adds, beside the lab's packages: settled with a direction's files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from fumehood.domain import extra_packages as extra
from fumehood.domain.extra_packages import ExtraPackages, Pin
from fumehood.domain.template import Template
from fumehood.errors import BadInputError
from fumehood.ports import Artifacts

MOST_BYTES = 512 * 1024 * 1024
"""The largest wheel that is taken as a file."""


def declared(template: Template) -> tuple[Pin, ...]:
    """Return the packages that a template declares beside the lab's."""
    return tuple(extra.pin(one) for one in template.packages if extra.is_pinned(one))


def settle(
    files: Mapping[str, str],
    artifacts: Artifacts,
    template: Template,
    packages: Iterable[str] = (),
    wheels: Iterable[Path] = (),
) -> dict[str, str]:
    """Return a template's files with what its lab has more, by its declaration and by what is added to that.

    Whatever is said there is settled: a direction that has these files has that lab. Files of a template that asks for
    nothing stay as they are.
    """
    if extra.REQUEST in files:
        raise BadInputError(
            f"The template has a file {extra.REQUEST}, which the platform writes: declare extra packages in its"
            " template.toml."
        )
    given = {f"{extra.WHEELS}{path.name}": _kept(path, artifacts) for path in wheels}
    lying = {**{path: files[path] for path in template.wheels}, **given}
    asked = extra.merged(
        [*declared(template), *extra.pins(packages)], {Path(path).name: sha for path, sha in lying.items()}
    )
    if not asked:
        return dict(files)
    return {**files, **given, extra.REQUEST: artifacts.put(asked.to_json())}


def _kept(path: Path, artifacts: Artifacts) -> str:
    extra.of_wheel(path.name)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise BadInputError(f"The wheel {path} is larger than {MOST_BYTES // 2**20} MiB.")
        return artifacts.put_file(path)
    except OSError as error:
        raise BadInputError(f"The wheel {path} cannot be read: {error.strerror}.") from error


def read(files: Mapping[str, str], artifacts: Artifacts) -> ExtraPackages:
    """Return what a direction's lab has more; nothing for most."""
    return ExtraPackages.from_json(artifacts.get(files[extra.REQUEST])) if extra.REQUEST in files else ExtraPackages()


def holds(files: Mapping[str, str], artifacts: Artifacts, packages: Iterable[str], wheels: Iterable[Path]) -> bool:
    """Tell whether a direction's lab has all that is asked for here."""
    settled = read(files, artifacts)
    asked = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels}
    return set(extra.pins(packages)) <= set(settled.pins) and asked.items() <= settled.wheels.items()


def importable(
    files: Mapping[str, str], artifacts: Artifacts, template: Template, known: Callable[[str], frozenset[str]]
) -> frozenset[str]:
    """Return what can be imported by what a template says of its packages, and by what is known of its own lab."""
    bare = {name for name in template.packages if not extra.is_pinned(name)}
    named = {name.replace("-", "_") for name in bare | read(files, artifacts).names}
    return frozenset(named) | known(extra.image_of(files))
