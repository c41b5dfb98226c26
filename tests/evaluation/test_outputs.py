"""Which output of a network is which class of a data set."""

import pytest

from sprout_fast.errors import UserError
from sprout_fast.evaluation.outputs import imagenet_synsets, match_outputs, outputs_of, read_names


def test_wordnet_ids_and_english_names_are_the_same():
    torchvision = pytest.importorskip("torchvision")
    names = torchvision.models.ResNet50_Weights.DEFAULT.meta["categories"]
    synsets = imagenet_synsets()
    assert len(set(synsets)) == 1000 and list(synsets) == sorted(synsets)
    matched = match_outputs(names, synsets)
    # Two classes are called cardigan: a dog and a garment.
    assert {names[i] for i in range(1000) if matched[i] != i} == {"Cardigan", "cardigan"}
    assert match_outputs(["great_white-shark", "N01440764"], synsets) == [2, 0]


def test_a_network_of_1000_classes_on_a_folder_of_some():
    outputs, names = outputs_of(["n02123045", "tench", "goldfish"], 1000, None, network="net")
    assert outputs == [281, 0, 1] and len(names) == 1000
    assert names[281] == "n02123045" and names[0] == "tench" and names[2] == "n01484850"
    assert outputs_of(["7", "12"], 1000, None, network="net")[0] == [7, 12]  # numbers


def test_as_many_classes_as_outputs_are_in_their_order():
    assert outputs_of(["b", "a"], 2, None, network="net") == ([0, 1], ["b", "a"])


def test_names_of_the_outputs_decide(tmp_path):
    file = tmp_path / "names.txt"
    file.write_bytes(b"\xef\xbb\xbfdog\r\nn02123045 tabby, tabby cat\r\n\r\nk\xc3\xb6ter\n")
    names = read_names(file)
    assert names == ["dog", "n02123045", "köter"]
    assert outputs_of(["Köter", "dog"], 3, names, network="net")[0] == [2, 0]
    with pytest.raises(UserError, match="^classes has 3 names, net has 4 outputs"):
        outputs_of(["dog"], 4, names, network="net")


@pytest.mark.parametrize(
    ("classes", "count", "names", "says"),
    [
        (["x", "tench"], 1000, None, "net has 1000 outputs, .* the data set's x; expected a file"),
        (["a", "b", "c", "d", "e"], 8, None, "net has 8 outputs, .* a, b, c and 2 more; expected"),
        (["cardigan"], 1000, None, "cardigan"),
        (["a", "b"], 3, ["a", "c", "d"], "the data set's b; expected"),
        (["a"], 3, ["a", "A", "d"], "the data set's a; expected"),
    ],
)
def test_classes_that_are_no_output(classes, count, names, says):
    with pytest.raises(UserError, match=f"^classes required: .*{says}") as error:
        outputs_of(classes, count, names, network="net")
    assert "\n" not in str(error.value)


def test_files_that_are_no_names(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("binary", "missing", "."):
        with pytest.raises(UserError, match="^classes .* cannot be read"):
            read_names(tmp_path / name)
