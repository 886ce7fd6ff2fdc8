"""Plays situations on the simulator: two hosts of a `World`, in virtual time.

It refuses to know what the situations are, and what real kernels do with them.
"""

from __future__ import annotations

import asyncio
from typing import Final

from underlay.sim import World

from ._situations import Deed, Side, Situation

GRACE_S: Final = 0.2


def play(situation: type[Situation], seed: int = 1) -> dict[str, list[str]]:
    """What each side said."""
    said: dict[str, list[str]] = {"client": [], "server": []}

    async def test(world: World) -> None:
        is_ready, is_over = asyncio.Event(), asyncio.Event()

        def do(deed: Deed) -> None:
            server = world.host("server")
            if deed == "cut":
                world.partition("client", "server")
            elif deed == "heal":
                world.heal()
            elif deed == "kill":
                server.kill()
            elif deed == "power off":
                server.crash()
            elif deed == "reboot":
                if server.is_up:
                    server.crash()
                said["server"].append("(boots)")
                server.restart()
            elif deed == "pause":
                server.pause()
            elif deed == "resume":
                server.resume()

        def side(role: str, here: str, there: str) -> Side:
            def say(what: str) -> None:
                if not is_over.is_set():
                    said[role].append(what)

            return Side(here, there, say, do, is_ready.set)

        async def serve() -> None:
            await situation().server(side("server", SERVER, CLIENT))

        async def ask() -> None:
            await situation().client(side("client", CLIENT, SERVER))
            client_is_over.set()

        client_is_over = asyncio.Event()
        on = "internet"
        if not situation.knows_macs:
            on = world.lan("cable", prefix="10.0.0.0/24").name
        world.host("server", start=serve, on=on)
        await is_ready.wait()
        world.host("client", start=ask, on=on)
        await client_is_over.wait()
        await asyncio.sleep(GRACE_S)
        is_over.set()

    World(seed).run(test)
    return said


# As a world gives them to its first and its second host.
SERVER, CLIENT = "10.0.0.1", "10.0.0.2"
