"""A step of pydantic-graph, for the bench: one step that comes round until it was there n times."""

from __future__ import annotations

import dataclasses

from pydantic_graph import GraphBuilder, StepContext


@dataclasses.dataclass
class State:
    """How often is left."""

    left: int


_builder = GraphBuilder(state_type=State, output_type=int)


@_builder.step
async def step(ctx: StepContext[State, None, None]) -> int:
    """One time less."""
    ctx.state.left -= 1
    return ctx.state.left


_builder.add(
    _builder.edge_from(_builder.start_node).to(step),
    _builder.edge_from(step).to(
        _builder.decision()
        .branch(_builder.match(int, matches=lambda left: left > 0).to(step))
        .branch(_builder.match(int, matches=lambda left: left <= 0).to(_builder.end_node))
    ),
)
GRAPH = _builder.build()


async def steps(n: int) -> None:
    """Run it n times round."""
    await GRAPH.run(state=State(n))
