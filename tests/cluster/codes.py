"""Codes of functions, and a DAG of them, that several tests use."""

from __future__ import annotations

import enum
import operator
from dataclasses import dataclass

import handoff_dask as handoff
from handoff_dask import Function


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Point:
    x: int
    y: int


def same(value=None, *rest):
    return value


def boom(*values):
    raise ValueError("boom", 3)


def plus(value, source, target, more):
    """For an argument on its way."""
    return value + more


def everything(*args, **kwargs):
    return args, kwargs


def answer(value):
    return f"The final answer is: {value}"


class Adder:
    def __init__(self, n):
        self.n = n

    def __call__(self, x):
        return x + self.n

    def method(self, x):
        return x * self.n

    @classmethod
    def make(cls, n):
        return cls(n).n

    @staticmethod
    def twice(x):
        return 2 * x


def pipeline(**cost):
    return (
        handoff.DAG("first")
        .add_function(Function("source", [], int, extra_args=[42], cost=cost))
        .add_function(Function("transform", ["source"], operator.mul, extra_args=[2], cost=cost))
        .add_function(Function("sink", ["transform"], answer, cost=cost))
    )
