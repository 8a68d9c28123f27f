"""Event files against TensorBoard's own reader; what is cut off, broken or without scalars."""

import numpy as np
import pytest
import synthetic

import fmjax
from fmjax.importers import import_logs
from fmjax.importers.event_records import scalars

pytest.importorskip("tensorboard")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_ndarray, make_tensor_proto


def written(folder, events):
    """The file that TensorBoard's writer makes of events."""
    writer = EventFileWriter(str(folder))
    for event in events:
        writer.add_event(event)
    writer.close()
    (path,) = folder.glob("*.tfevents.*")
    return path


def event(step, **values):
    """An event with one value a keyword: a number, or a message that stands for it."""
    items = []
    for tag, value in values.items():
        given = value if isinstance(value, dict) else {"simple_value": value}
        items.append(Summary.Value(tag=tag.replace("__", "/"), **given))
    return Event(step=step, wall_time=1.7e9 + step, summary=Summary(value=items))


def tensor(value, dtype):
    kind = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))
    return {"tensor": make_tensor_proto(np.asarray(value, dtype)), "metadata": kind}


def theirs(path):
    """Steps and values by tag as TensorBoard reads them."""
    read = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    read.Reload()
    found = {
        tag: ([e.step for e in read.Scalars(tag)], [e.value for e in read.Scalars(tag)]) for tag in read.scalars.Keys()
    }
    for tag in read.tensors.Keys():
        arrays = [make_ndarray(e.tensor_proto) for e in read.Tensors(tag)]
        if all(array.size == 1 and array.dtype.kind in "fiu" for array in arrays):
            found[tag] = ([e.step for e in read.Tensors(tag)], [float(array.ravel()[0]) for array in arrays])
    return found


def assert_same(path):
    found, expected = scalars(path.read_bytes()), theirs(path)
    assert found.keys() == expected.keys()
    for tag, (step, value) in expected.items():
        np.testing.assert_array_equal(found[tag][0], step)
        np.testing.assert_array_equal(found[tag][1], value)
    return found


def test_many_tags_of_all_kinds(tmp_path):
    rng = np.random.default_rng(0)
    events = []
    for step in [*range(300), 2**14, 2**21 + 5, 2**35]:
        events.append(event(step, train__loss=rng.normal(), train__rate=rng.normal()))
        events.append(event(step, train__lose=rng.normal()))  # as long as the loss
        if step % 7 == 0:
            events.append(
                event(step, a_double=tensor(rng.normal(), np.float64), a_float=tensor(rng.normal(), np.float32))
            )
            events.append(event(step, an_int=tensor(step, np.int64)))
            events.append(event(step, a_matrix=tensor(np.ones((2, 2)), np.float32), words=tensor(str(step), "S9")))
    found = assert_same(written(tmp_path, events))
    assert found.keys() == {"train/loss", "train/rate", "train/lose", "a_double", "a_float", "an_int"}
    assert found["train/loss"][0].size == 303


def test_numbers_that_are_not_finite(tmp_path):
    assert_same(written(tmp_path, [event(1, a=float("nan")), event(2, a=float("inf")), event(3, a=-0.0)]))


def test_one_step_logged_twice_stays_in_the_order_of_the_file(tmp_path):
    found = assert_same(written(tmp_path, [event(step, a=value) for value, step in enumerate([5, 300, 5, 70_000, 5])]))
    assert found["a"][1].tolist() == [0, 1, 2, 3, 4]


def test_a_record_that_is_cut_off_is_left_out(tmp_path):
    path = written(tmp_path, [event(step, loss=3.0) for step in range(20)])
    whole = path.read_bytes()
    for cut in (1, 5, 20, 33, 40):
        path.write_bytes(whole[:-cut])
        assert_same(path)


@pytest.mark.parametrize("place", [0, 5, 9, 200, 333])
def test_a_flipped_bit_is_found(place, tmp_path):
    path = written(tmp_path, [event(step, loss=3.0) for step in range(20)])
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"tfevents.*expected an event file, but the checksum at byte \d+ is wrong"):
        import_logs(tmp_path, source="tensorboard")


T = 300
PLAN = fmjax.WSD(1e-3, T, 0.3, warmup_steps=10)
RATE = synthetic.rates(PLAN)
LOSS = synthetic.losses("lr-annealing", synthetic.TRUTH["lr-annealing"], RATE, warmup_steps=10)


def run_events(keys=("train__loss", "train__learning_rate")):
    return [event(s + 1, **dict(zip(keys, (LOSS[s], RATE[s]), strict=True))) for s in range(9, T, 10)]


def test_files_without_scalars_stop_nothing(tmp_path):
    written(tmp_path / "run", run_events())
    written(tmp_path / "run" / "1700000000.1", [event(0, note=tensor("a", "S1"))])
    written(tmp_path / "crashed", [])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "events.out.tfevents.1.a").touch()
    (one,) = import_logs(tmp_path)
    assert (one.curve.name, one.curve.step.tolist()) == ("run", list(range(9, T, 10)))
    with pytest.raises(ValueError, match="found none"):
        import_logs(tmp_path / "crashed")
    with pytest.raises(ValueError, match="expected logs of TensorBoard, found none"):
        import_logs(tmp_path / "crashed", source="tensorboard")


@pytest.mark.parametrize(
    "keys",
    [
        ("learning__loss", "learning__current_learning_rate"),
        ("train__lm_loss", "train__learning_rate"),
        ("loss__train", "lr-AdamW"),
        ("train__CE loss", "optim__LR (group 0)"),
    ],
)
def test_names_of_trainers(keys, tmp_path):
    written(tmp_path / "run", [*run_events(keys), event(T, eval__total_loss=9e4, eval__avg_loss=3.5)])
    (one,) = import_logs(tmp_path)
    assert (one.loss, one.rate) == tuple(key.replace("__", "/") for key in keys)
    np.testing.assert_allclose(one.curve.loss, LOSS[9::10], rtol=1e-6)
