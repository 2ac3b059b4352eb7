"""The directory, alive: a clock, the operator's choices on disk, and a feed of what changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from services.registry.directory import Choices, Directory, Health, Info, Registration, View
from services.registry.store import ChoicesFile
from services.rpc.watch import Feed
from services.telemetry import Log

Item = View | str
"""What the feed carries: engines by id and, under the key "", the default engine's id."""

_DEFAULT = ""

log = Log(__name__)


class Registry:
    """Every change goes through here: it is made, saved where it must last, and told to the watchers."""

    def __init__(
        self, *, directory: Directory, choices: ChoicesFile, feed: Feed[Item], clock: Callable[[], float]
    ) -> None:
        self._directory = directory
        self._choices = choices
        self._clock = clock
        self.feed = feed
        self.members_changed = asyncio.Event()
        """Set when an engine came, went, or moved."""
        self._publish()

    @property
    def default_engine(self) -> str:
        """The default engine's id, or empty."""
        return self._directory.choices.default_engine

    def register(self, wanted: Registration) -> View:
        """See Directory.register."""
        view = self._directory.register(wanted, now=self._clock())
        self._publish()
        return view

    def unregister(self, name: str, *, instance_id: str, allow_missing: bool) -> None:
        """See Directory.unregister."""
        gone = self._directory.unregister(name, instance_id=instance_id, allow_missing=allow_missing, now=self._clock())
        if gone:
            log.info("engine_unregistered", engine=name)
        self._publish()

    def see_health(self, engine_id: str, instance_id: str, health: Health) -> None:
        """See Directory.see_health."""
        self._directory.see_health(engine_id, instance_id, health, now=self._clock())
        self._publish()

    def see_info(self, engine_id: str, instance_id: str, info: Info) -> None:
        """See Directory.see_info."""
        self._directory.see_info(engine_id, instance_id, info, now=self._clock())
        self._publish()

    def get(self, name: str) -> View:
        """See Directory.get."""
        return self._directory.get(name, now=self._clock())

    def views(self) -> list[View]:
        """See Directory.views."""
        return self._directory.views(now=self._clock())

    def set_default(self, name: str) -> str:
        """Choose the default engine for good; returns the previous one. Raises what Directory.with_default does."""
        before = self._directory.choices
        self._choose(self._directory.with_default(name, now=self._clock()))
        return before.default_engine

    def cordon(self, name: str, *, cordoned: bool, reason: str) -> View:
        """Stop or resume new deployments on an engine for good; raises what Directory.with_cordon does."""
        self._choose(self._directory.with_cordon(name, cordoned=cordoned, reason=reason, now=self._clock()))
        return self.get(name)

    async def keep_time(self, *, seconds: float) -> None:
        """For ever: let watchers see, at most `seconds` late, what the passing of time changed."""
        while True:
            await asyncio.sleep(seconds)
            self._publish()

    def _choose(self, choices: Choices) -> None:
        """Saves on the event loop on purpose: it is rare and small, and two choices can then never cross."""
        if choices != self._directory.choices:
            self._choices.save(choices)
            self._directory.choices = choices
            log.info("choices_changed", default=choices.default_engine, cordoned=",".join(sorted(choices.cordons)))
        self._publish()

    def _publish(self) -> None:
        views = {view.engine_id: view for view in self.views()}
        known = self.feed.items()
        for engine_id in known.keys() - views.keys() - {_DEFAULT}:
            self.feed.remove(engine_id)
            self.members_changed.set()
        for engine_id, view in views.items():
            before = known.get(engine_id)
            if self.feed.put(engine_id, view) and isinstance(before, View | None):
                self._note(before, view)
        self.feed.put(_DEFAULT, self.default_engine)

    def _note(self, before: View | None, view: View) -> None:
        if before is None or before.registration != view.registration:
            self.members_changed.set()
            log.info("engine_registered", engine=view.engine_id, endpoint=view.registration.endpoint)
        if before is None or (before.availability, before.reason) != (view.availability, view.reason):
            log.info("engine_availability", engine=view.engine_id, now=view.availability.name, reason=view.reason)
