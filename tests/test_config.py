import pytest

from silent2music.config import (
    AmbienceConfig,
    ComposingConfig,
    DataConfig,
    DecoderConfig,
    ModelConfig,
    RecipeConfig,
    RunConfig,
    SamplingConfig,
    TrainingConfig,
    apply_overrides,
    from_dict,
    load_recipe,
    read_values,
    to_dict,
)
from silent2music.errors import ConfigError


def test_round_trip():
    config = ModelConfig(name="x", decoder=DecoderConfig(dim=64))
    assert from_dict(ModelConfig, to_dict(config)) == config


def test_music_may_be_moved_down_as_well_as_up():
    assert [ComposingConfig(transposition=moved).transposition for moved in (-11, 11)] == [-11, 11]
    with pytest.raises(ConfigError, match="transposition is 12; expected -11 to 11"):
        ComposingConfig(transposition=12)


def test_unknown_key_is_named_with_its_place():
    with pytest.raises(ConfigError, match=r"'decoder\.width'.*expected one of dim,"):
        from_dict(ModelConfig, {"decoder": {"width": 3}})


@pytest.mark.parametrize("value", ["3", 3.5, True, [3]])
def test_wrong_type_is_named(value):
    with pytest.raises(ConfigError, match=r"'dim' is .*; expected int"):
        from_dict(DecoderConfig, {"dim": value})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize(
    ("config", "name", "message"),
    [
        (SamplingConfig, "temperature", r"^temperature is .*; expected 0 to 100\.$"),
        (SamplingConfig, "top_p", r"^top_p is .*; expected more than 0 and at most 1\.$"),
        (TrainingConfig, "learning_rate", r"^training\.learning_rate is .*; expected 0 to 100\.$"),
        (
            TrainingConfig,
            "crop_seconds",
            r"^training\.crop_seconds is .*; expected more than 0 and at most 3600\.$",
        ),
        (AmbienceConfig, "tempo_tolerance", r"^ambience\.tempo_tolerance is .*; expected 0 to 0\.5\.$"),
    ],
)
def test_impossible_numbers_are_named_with_their_bounds(config, name, message, value):
    with pytest.raises(ConfigError, match=message):
        config(**{name: value})


def test_bounds_hold_in_tables_and_have_exceptions():
    with pytest.raises(ConfigError, match=r"training\.control_dropout is 1\.5; expected 0 to 1"):
        TrainingConfig(control_dropout={"room": 1.5})
    with pytest.raises(ConfigError, match=r"decoder\.n_codebooks is 0; expected 1 to 256"):
        DecoderConfig(n_codebooks=0)
    assert RunConfig(n_codebooks=0).n_codebooks == 0


def test_whole_numbers_serve_as_real_ones():
    assert from_dict(DecoderConfig, {"dropout": 0}).dropout == 0.0
    assert from_dict(DataConfig, {"kinds": {"room": 1}}).kinds == {"room": 1.0}


def test_a_table_is_expected_for_a_section():
    with pytest.raises(ConfigError, match="'decoder' is 5; expected a table"):
        from_dict(ModelConfig, {"decoder": 5})


def test_overrides_read_numbers_text_and_lists():
    values = apply_overrides({}, ["decoder.dim=64", "data.scores=some/folder", "training.learning_rate=1e-4"])
    assert values == {
        "decoder": {"dim": 64},
        "data": {"scores": "some/folder"},
        "training": {"learning_rate": 1e-4},
    }


@pytest.mark.parametrize("override", ["decoder.dim", "=3"])
def test_malformed_override_is_named(override):
    with pytest.raises(ConfigError, match="not of the form"):
        apply_overrides({}, [override])


def test_an_override_through_a_value_is_refused():
    with pytest.raises(ConfigError, match="which is a value"):
        apply_overrides({"decoder": {"dim": 3}}, ["decoder.dim.x=1"])


def test_recipe_from_folder_with_override(tmp_path):
    (tmp_path / "recipe.toml").write_text("[decoder]\ndim = 128\n")
    recipe = load_recipe(tmp_path, ["training.seed=3"])
    assert recipe.decoder.dim == 128
    assert recipe.training.seed == 3
    assert recipe.ambient == RecipeConfig().ambient


def test_missing_and_malformed_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_values(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(ConfigError, match="malformed"):
        read_values(tmp_path / "bad.toml")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ConfigError, match="holds a list"):
        read_values(tmp_path / "list.json")
