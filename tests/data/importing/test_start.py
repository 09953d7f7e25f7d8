"""What an imported set starts from."""

from data.importing.run import import_set
from data.importing.write import Target
from data.resolve import load_config
from tests.data.importing import sources


def test_a_set_starts_from_the_weights_that_ship_where_they_fit(tmp_path):
    source = sources.labelme(tmp_path / "source")
    for base, start, said in (
        ("yolact_plus_micro", "start", "from the weights that ship (train.init_from=start)"),
        ("yolact_plus_tiny", "", "no weights ship for it (they fit yolact_plus_micro)"),
    ):
        out = tmp_path / base
        lines = import_set(source, Target(out, base))
        assert f"network  {base}, {said}" in lines
        cfg = load_config(str(out / "config.yaml"), check_names=False)
        assert cfg.train.init_from == start
        own = load_config(base, check_names=False).model
        assert len(cfg.model.anchor_ratios) == len(own.anchor_ratios)
        counts = [[len(level) for level in m.anchor_scales] for m in (cfg.model, own)]
        assert counts[0] == counts[1]
