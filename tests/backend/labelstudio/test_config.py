from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio.config import SCOPES, check_same_classes, labelling_config, read_config
from mpamatch.domain.classes import ClassSet
from mpamatch.errors import BadInput, Conflict

CLASSES = ClassSet.from_names(["background", "Tumour", "Stroma"])
xml_text = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1, max_size=20
).filter(lambda t: t == t.strip())


@pytest.mark.parametrize("label_type", ["brush", "bitmask", "polygon"])
def test_what_we_write_reads_as_complete(label_type):
    reading = read_config(labelling_config(CLASSES, label_type))
    assert reading.label_type == label_type
    assert reading.class_names == ("Tumour", "Stroma")
    assert reading.complete


def test_the_configuration_has_the_names_and_choices_of_the_design():
    root = ElementTree.fromstring(labelling_config(CLASSES))
    assert [e.tag for e in root] == ["Header", "Choices", "BrushLabels", "RectangleLabels", "Image"]
    assert [c.get("value") for c in root.iter("Choice")] == list(SCOPES)
    assert [c.get("value") for c in root.iter("Choice") if c.get("selected") == "true"] == ["whole tile"]
    assert root.find("BrushLabels").get("name") == "seg"
    assert root.find("RectangleLabels").get("canRotate") == "false"
    assert [e.get("background") for e in root.find("BrushLabels")] == [c.colour for c in CLASSES.foreground]


@given(st.lists(xml_text, min_size=1, max_size=5, unique_by=lambda t: t.casefold()))
def test_any_class_name_survives_the_xml(names):
    classes = ClassSet.from_names(["_background_", *names])
    assert read_config(labelling_config(classes)).class_names == tuple(names)


def test_an_unknown_label_type_is_refused():
    with pytest.raises(BadInput, match="brush"):
        labelling_config(CLASSES, "ellipse")


@pytest.mark.shared
def test_recorded_configurations_read_without_a_scope(recorded):
    for label_type, xml in recorded("label-configs").items():
        reading = read_config(xml)
        assert reading.label_type == label_type
        assert reading.class_names == ("Tumour", "Stroma")
        assert (reading.seg, reading.review, reading.why, reading.scope) == (True, True, True, False)
        assert not reading.complete


def test_foreign_configurations_say_what_they_lack():
    other = (
        '<View><Image name="i" value="$pic"/><BrushLabels name="b" toName="i"><Label value="x"/></BrushLabels></View>'
    )
    reading = read_config(other)
    assert reading.label_type == "brush"
    assert reading.class_names == ("x",)
    assert (reading.seg, reading.review, reading.scope, reading.why) == (False,) * 4
    assert reading.image_key == "pic"
    text = read_config('<View><Text name="t" value="$text"/></View>')
    assert text.label_type is None
    assert text.image_key is None


def test_two_segmentation_controls_without_our_name_are_not_guessed_between():
    two = "".join(f'<BrushLabels name="{n}" toName="image"><Label value="{n}"/></BrushLabels>' for n in "ab")
    assert read_config(f"<View>{two}</View>").label_type is None
    ours = '<PolygonLabels name="seg" toName="image"><Label value="c"/></PolygonLabels>'
    assert read_config(f"<View>{two}{ours}</View>").class_names == ("c",)


def test_an_alias_is_what_results_carry():
    xml = '<View><BrushLabels name="seg" toName="image"><Label value="Tumour" alias="T"/></BrushLabels></View>'
    assert read_config(xml).class_names == ("T",)


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<View><Bad",
        "no xml",
        '<!DOCTYPE v [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><View>&b;</View>',
        '<!DOCTYPE v SYSTEM "file:///etc/passwd"><View/>',
        "<View>" + " " * 1_000_001 + "</View>",
        "<View>\x00</View>",
    ],
)
def test_what_is_no_plain_xml_is_refused(xml):
    with pytest.raises(BadInput):
        read_config(xml)


def test_the_same_classes_in_another_order_or_with_background_are_the_same():
    for names in (["Stroma", "Tumour"], ["background", "Tumour", "Stroma"]):
        check_same_classes(read_config(labelling_config(ClassSet.from_names(["-", *names]))), CLASSES)


@pytest.mark.parametrize(
    ("names", "named"),
    [(["Tumor", "Stroma"], ["Tumor", "Tumour"]), (["Tumour"], ["Stroma"]), (["Tumour", "Stroma", "Fat"], ["Fat"])],
)
def test_a_renamed_dropped_or_added_label_asks_for_a_decision(names, named):
    with pytest.raises(Conflict) as caught:
        check_same_classes(read_config(labelling_config(ClassSet.from_names(["-", *names]))), CLASSES)
    for name in named:
        assert name in caught.value.problem
