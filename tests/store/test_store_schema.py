import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullback.store.schema import ARRAYS, SHARD_ARRAYS, Layout, Reason, ShardRecord, stored_bytes
from stored_sweeps import LAYOUT, altered, record_of

layouts = st.builds(
    lambda samples, n, missing, size: Layout(samples, n, max(1, n - missing), size),
    st.integers(1, 50),
    st.integers(1, 6),
    st.integers(0, 5),
    st.integers(1, 60),
)


@given(layouts)
def test_every_sample_belongs_to_exactly_one_shard(layout: Layout) -> None:
    samples = [sample for shard in range(layout.shards) for sample in layout.samples_of(shard)]
    assert samples == list(range(layout.samples))
    assert all(
        sample // layout.shard_size == shard for shard in range(layout.shards) for sample in layout.samples_of(shard)
    )


@given(layouts)
def test_a_layout_survives_json(layout: Layout) -> None:
    assert Layout.from_dict(layout.to_dict()) == layout


@pytest.mark.parametrize("sizes", [(0, 4, 4, 2), (5, 4, 5, 2), (5, 4, 4, -1), (5, 4, 4, 2.0), (True, 4, 4, 2)])
def test_an_impossible_layout_is_refused(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"positive integer|components"):
        Layout(*sizes)


def test_a_layout_without_a_size_is_refused_and_sizes_of_later_versions_are_left_out() -> None:
    sizes = LAYOUT.to_dict()
    assert Layout.from_dict({**sizes, "colour": 3}) == LAYOUT
    for name in sizes:
        with pytest.raises(ValueError, match="a layout has"):
            Layout.from_dict({key: size for key, size in sizes.items() if key != name})


@pytest.mark.parametrize("shard", [-1, 3])
def test_a_shard_out_of_the_plan_has_no_samples(shard: int) -> None:
    with pytest.raises(IndexError, match="3 shards"):
        LAYOUT.samples_of(shard)


@given(layouts)
def test_the_stored_size_is_that_of_the_records(layout: Layout) -> None:
    values = [record_of(layout, shard) for shard in range(layout.shards)]
    size = sum(getattr(record, schema.name).nbytes for record in values for schema in SHARD_ARRAYS)
    assert stored_bytes(layout) == size + 8 * layout.samples


def test_no_array_but_sample_is_named_like_a_dimension() -> None:
    # xarray would turn it into a coordinate without an index.
    assert {array.name for array in ARRAYS} & {dim for array in ARRAYS for dim in array.dims} == {"sample"}


def test_no_units_are_decoded_as_times_by_xarray() -> None:
    assert not {array.units for array in ARRAYS} & {"seconds", "milliseconds", "days", "hours", "minutes"}


def test_the_record_has_a_field_for_every_array() -> None:
    assert set(ShardRecord.__dataclass_fields__) == {"shard", *(array.name for array in SHARD_ARRAYS)}


@given(layouts)
def test_a_record_of_the_right_form_is_valid(layout: Layout) -> None:
    record_of(layout, layout.shards - 1).validate(layout)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent": np.zeros((4, 16))}, r"latent is float64\[4, 16\], not float32\[4, 16\]"),
        ({"trace": np.zeros(3)}, r"trace is float64\[3\], not float64\[4\]"),
        ({"seconds": [0.0] * 4}, "seconds is list"),
        ({"metric_sum": np.full((16, 16), np.nan)}, "metric_sum must be finite"),
        ({"status": np.zeros(4, np.uint8)}, "status must be good or quarantined"),
        ({"reason": np.full(4, Reason.ASYMMETRIC, np.uint8)}, "reason must be NONE exactly where"),
        ({"shard": 9}, "shard 9 is not one of the plan's 3"),
    ],
)
def test_a_record_that_does_not_fit_the_plan_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        altered(record_of(LAYOUT, 0), **changes).validate(LAYOUT)


def test_every_problem_of_a_record_is_listed_at_once() -> None:
    wrong = altered(record_of(LAYOUT, 0), trace=np.zeros(1), seconds=np.zeros(2))
    with pytest.raises(ValueError, match=r"trace .*; seconds "):
        wrong.validate(LAYOUT)


def test_the_schema_needs_neither_zarr_nor_icechunk_nor_xarray() -> None:
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('zarr', 'icechunk', 'xarray')))\n"
        "import pullback.store, pullback.store.schema, pullback.store.folders"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
