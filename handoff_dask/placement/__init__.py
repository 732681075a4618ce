"""Which function runs next, and where: a pure engine, and what it is made of.

:class:`~handoff_dask.placement.engine.PlacementEngine` is told facts
(:mod:`~handoff_dask.placement.events`) and answers with orders
(:mod:`~handoff_dask.placement.decisions`).  Nothing in here reads a clock, a configuration or a
network; the same facts always lead to the same orders.
"""
