"""train.py and eval.py: YOLACT's flags, overrides, one-line errors, and what they hand to the
engine."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import types
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.resolve import dump_yaml, load_config
from layers.problems import DataWarning
from yolact import cli
from yolact.commands import eval as eval_program
from yolact.commands import train as train_program
from yolact.commands.eval import flags as eval_flags

ROOT = Path(__file__).parents[3]

YOLACT_TRAIN_FLAGS = (
    "batch_size resume start_iter num_workers cuda lr learning_rate momentum decay weight_decay "
    "gamma save_folder log_folder config save_interval validation_size validation_epoch "
    "keep_latest keep_latest_interval dataset no_log log_gpu no_interrupt batch_alloc no_autoscale"
).split()
YOLACT_EVAL_FLAGS = (
    "trained_model top_k cuda fast_nms cross_class_nms display_masks display_bboxes display_text "
    "display_scores display shuffle ap_data_file resume max_images output_coco_json bbox_det_file "
    "mask_det_file config output_web_json web_det_path no_bar display_lincomb benchmark no_sort "
    "seed mask_proto_debug no_crop image images video video_multiframe score_threshold dataset "
    "detect display_fps emulate_playback run_coco_eval gt_ann_file eval_type"
).split()


def run(program, *argv):
    """The exit code of a command line, in this process."""
    try:
        return cli.run(program.main, program.parser().parse([str(word) for word in argv]))
    except SystemExit as stop:
        return stop.code


@pytest.fixture
def engine(monkeypatch):
    """What train.py handed to the engine: .config and the keywords; no training happens."""
    calls = types.SimpleNamespace()

    def record(config, **options):
        calls.config, calls.options = config, options

    module = types.ModuleType("yolact.engine.train")
    module.train = record
    monkeypatch.setitem(sys.modules, "yolact.engine.train", module)
    return calls


def refused(capsys, program, *argv):
    assert run(program, *argv) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


# -------------------------------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    "program, flags",
    [(train_program, YOLACT_TRAIN_FLAGS), (eval_program, YOLACT_EVAL_FLAGS)],
    ids=["train", "eval"],
)
def test_every_flag_of_yolact_is_known(program, flags):
    known = {flag for action in program.parser()._actions for flag in action.option_strings}
    assert not [flag for flag in flags if f"--{flag}" not in known]


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--no_autoscale"], True),
        (["--no_autoscale=False"], False),
        (["--no_autoscale", "False"], False),
        (["--no_autoscale=yes"], True),
        (["--no_autoscale", "train.lr=1"], True),
        ([], False),
    ],
)
def test_switches(words, expected):
    arguments = train_program.parser().parse(words)
    assert arguments.no_autoscale is expected
    assert arguments.overrides == [word for word in words if word.startswith("train")]


def test_switch_refuses_anything_else(capsys):
    assert "is not true or false" in refused(capsys, train_program, "--no_autoscale=maybe")


def test_overrides_stand_anywhere():
    words = [
        "train.lr=1",
        "--config",
        "yolact_base",
        "train.seed=2",
        "--resume",
        "train.iterations=3",
        "--cuda",
        "loss.mask=a + b",
    ]
    arguments = train_program.parser().parse(words)
    assert arguments.overrides == [
        "train.lr=1",
        "train.seed=2",
        "train.iterations=3",
        "loss.mask=a + b",
    ]
    assert (arguments.resume, arguments.cuda) == ("latest", True)


@pytest.mark.parametrize(
    "flag, expected",
    [
        (["--batch_size=16"], {"train.batch_size": 16, "train.lr": 2e-3}),
        (["--batch_size=16", "--no_autoscale"], {"train.lr": 1e-3}),
        (["--lr", "1e-4"], {"train.lr": 1e-4}),
        (["--learning_rate=1e-4", "--batch_size=16"], {"train.lr": 1e-4}),
        (["--momentum=.8"], {"train.momentum": 0.8}),
        (["--decay=0"], {"train.weight_decay": 0}),
        (["--weight_decay=0"], {"train.weight_decay": 0}),
        (["--gamma=.5"], {"train.lr_gamma": 0.5}),
        (["--num_workers=0"], {"train.num_workers": 0}),
        (["--dataset=cigarettes_dataset"], {"data.class_names": ("cig_butt",)}),
        (["--save_interval=50"], {"train.save_every": 50, "train.keep_every": 50}),
        (
            ["--save_interval=50", "--keep_latest"],
            {"train.save_every": 50, "train.keep_every": 100_000},
        ),
        (["--keep_latest", "--keep_latest_interval=7"], {"train.keep_every": 7}),
        (["--validation_size=12"], {"train.validate_images": 12}),
        (["--validation_epoch=-1"], {"train.validate_every": 0}),
        (["--batch_size=16", "train.batch_size=4"], {"train.batch_size": 4}),
    ],
)
def test_yolact_flag_is_a_setting(engine, flag, expected):
    assert run(train_program, "--config=yolact_base", *flag) == 0
    sections = engine.config.model_dump()
    for key, value in expected.items():
        section, field = key.split(".")
        assert sections[section][field] == value, key


def test_autoscale_says_what_it_did(engine, capsys):
    assert run(train_program, "--config=yolact_base", "--batch_size=16") == 0
    assert (
        "scaled for batch 16" in (text := capsys.readouterr().err)
        and "lr 0.001 -> 0.002, iterations 800000 -> 400000" in text
    )
    assert run(train_program, "--config=yolact_base", "--batch_size=16", "--no_autoscale") == 0
    assert capsys.readouterr().err == ""


def test_defaults(engine):
    assert run(train_program) == 0
    assert engine.config.name == "yolact_base"
    assert engine.options == {
        "run_dir": None,
        "resume": None,
        "device": None,
        "runs_root": Path("runs"),
    }


@pytest.mark.parametrize(
    "flag, option, value",
    [
        ("--cuda=False", "device", "cpu"),
        ("--cuda", "device", "cuda"),
        ("--device=cuda:1", "device", "cuda:1"),
        ("--save_folder=weights", "runs_root", Path("weights")),
        ("--run_dir=here", "run_dir", Path("here")),
    ],
)
def test_flag_of_the_engine(engine, flag, option, value):
    assert run(train_program, "--config=yolact_small", flag) == 0
    assert engine.options[option] == value


@pytest.mark.parametrize("flag", ["--log_folder=logs", "--no_log", "--log_gpu", "--no_interrupt"])
def test_replaced_flag_says_so_and_trains(engine, capsys, flag):
    assert run(train_program, flag) == 0
    assert f"note: {flag.split('=')[0]}: " in capsys.readouterr().err
    assert engine.config.name == "yolact_base"


def test_validation_epochs_are_counted_in_images(engine, tmp_path):
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 9, "height": 9} for i in range(30)],
        "annotations": [
            {"id": i, "image_id": i % 20, "category_id": 1, "bbox": [0, 0, 5, 5], "iscrowd": 0}
            | {"segmentation": [[0, 0, 5, 0, 5, 5]], "area": 12}
            for i in range(40)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    words = [
        "--config=yolact_small",
        "--validation_epoch=2",
        f"data.root={tmp_path}",
        "data.train_annotations=train.json",
    ]
    assert run(train_program, *words) == 0
    assert engine.config.train.validate_every == 2 * 20 // 8
    assert run(train_program, *words, "data.keep_empty=true") == 0
    assert engine.config.train.validate_every == 2 * 30 // 8


# ------------------------------------------------------------------------------------------- resume


@pytest.fixture
def runs(tmp_path):
    for number in ("1", "2"):
        folder = tmp_path / "yolact_small" / number
        (folder / "weights").mkdir(parents=True)
        (folder / "config.yaml").write_text(
            dump_yaml(load_config("yolact_small", [f"train.seed={number}"]))
        )
        (folder / "weights" / "last.pth").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["--resume"],
        ["--resume=latest"],
        ["--resume", "interrupt"],
        ["--resume", "train.log_every=5"],
    ],
)
def test_resume_takes_the_latest_run_and_its_config(engine, runs, words):
    assert run(train_program, f"--save_folder={runs}", *words) == 0
    assert engine.config.train.seed == 2
    assert engine.options["resume"] == str(runs / "yolact_small" / "2")


def test_resume_of_a_named_config_is_left_to_the_engine(engine, runs):
    assert run(train_program, f"--save_folder={runs}", "--config=yolact_small", "--resume") == 0
    assert (engine.options["resume"], engine.config.train.seed) == ("latest", 0)


def test_the_latest_run_may_be_of_a_config_in_a_group(engine, runs):
    shutil.copytree(runs / "yolact_small" / "1", newest := runs / "group" / "mine" / "1")
    os.utime(newest / "weights" / "last.pth", (2e9, 2e9))
    assert run(train_program, f"--save_folder={runs}", "--resume") == 0
    assert engine.options["resume"] == str(newest)


@pytest.mark.parametrize("place", ["yolact_small/1", "yolact_small/1/weights/last.pth"])
def test_resume_by_path(engine, runs, place):
    assert run(train_program, f"--resume={runs / place}") == 0
    assert engine.config.train.seed == 1
    assert engine.options["resume"] == str(runs / place)


def test_start_iter_zero_trains_anew_from_the_weights(engine):
    assert run(train_program, "--config=yolact_base", "--resume=some.pth", "--start_iter=0") == 0
    assert engine.config.train.init_from == "some.pth"
    assert engine.options["resume"] is None


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--config=yolact_bse"], "did you mean yolact_base"),
        (["--config=yolact_base", "train.lrr=1"], "unknown key train.lrr; did you mean train.lr"),
        (["--config=yolact_base", "--lr=-1"], "train.lr=-1: must be > 0"),
        (["--config=yolact_base", "loss.mask=bec"], "did you mean bce"),
        (
            ["--config=yolact_base", "--dataset=coco"],
            "no data set is called 'coco'; did you mean coco2017",
        ),
        (["--confg=yolact_base"], "did you mean --config"),
        (["--list", "config"], "invalid choice"),
        (["yolact_base"], "neither a flag nor key=value"),
        (["--batch_alloc=4,4"], "torchrun --nproc_per_node"),
        (["--start_iter=100"], "--start_iter"),
        (["--resume=not_there"], "not_there does not exist"),
        (["--resume=tests"], "no tests/config.yaml"),
        (
            ["--config=yolact_small", "--validation_epoch=1", "data.root=not_there"],
            "instances_train2017.json does not exist",
        ),
    ],
)
def test_train_refuses_in_one_line(engine, capsys, monkeypatch, words, expected):
    monkeypatch.chdir(ROOT)
    assert expected in refused(capsys, train_program, *words)
    assert not hasattr(engine, "config")


@pytest.mark.parametrize(
    "error, expected",
    [
        (ValueError("two\nlines"), "error: two lines\n"),
        (FileNotFoundError(2, "No such file", "a.json"), "error: a.json: No such file\n"),
        (OSError(28, "No space left on device"), "error: No space left on device\n"),
    ],
)
def test_mistakes_and_disks_are_one_line(capsys, error, expected):
    def fail(arguments):
        raise error

    assert cli.run(fail, cli.Parser().parse([])) == 2
    assert capsys.readouterr().err == expected
    cli.run(fail, cli.Parser().parse(["--traceback"]))
    assert "Traceback" in capsys.readouterr().err


def test_faults_of_the_program_are_one_line_and_a_log(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def fail(arguments):
        raise KeyError("a bug\n\x1b[2J")

    assert cli.run(fail, cli.Parser().parse([])) == cli.UNFORESEEN == 70
    (log,) = tmp_path.glob("yolact-error-*.log")
    said = capsys.readouterr().err
    assert said.startswith("error: unforeseen, KeyError: ") and said.endswith(f"is in {log})\n")
    assert said.count("\n") == 1 and "\x1b" not in said
    assert "in fail\n" in log.read_text() and "Traceback" in log.read_text()
    assert cli.run(fail, cli.Parser().parse(["--traceback"])) == 70
    assert "Traceback" in capsys.readouterr().err


def test_what_files_hold_reaches_no_terminal_unescaped(capsys):
    def fail(arguments):
        cli.note("a\x1b[2Jb\u202ec")
        warnings.warn("class 'x\ny'", DataWarning, stacklevel=1)
        warnings.warn("class 'x\ny'", DataWarning, stacklevel=1)
        raise ValueError("\ud800" + "x" * 80_000 + "\x07")

    assert cli.run(fail, cli.Parser().parse([])) == 2
    note, warning, error = capsys.readouterr().err.splitlines()
    assert note == r"note: a\x1b[2Jb\u202ec" and warning == r"warning: class 'x\ny'"
    assert error.startswith(r"error: \ud800xxx") and error.endswith(r"x\x07")
    assert len(error) < 1600


def test_an_ascii_terminal_gets_escapes():
    code = (
        "import sys\nfrom yolact import cli\n"
        "sys.exit(cli.run(lambda _: print('0.1 ± 0.2'), cli.Parser().parse([])))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert (done.returncode, done.stdout) == (0, b"0.1 \\xb1 0.2\n"), done.stderr


# ------------------------------------------------------------------------------------------ at once


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--help"], "runs/<config>/<n>"),
        (["--list", "configs"], "yolact_plus_resnet50_cigarettes"),
        (["--list", "datasets"], "pascal_sbd"),
        (
            ["--config=yolact_base_config", "--print_config"],
            "lr_steps: [280000, 600000, 700000, 750000]",
        ),
    ],
)
def test_train_answers_without_torch(words, expected):
    code = (
        "import sys\nsys.modules['torch'] = None\nimport runpy\nrunpy.run_path('train.py', "
        "run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def test_lists_of_what_is_registered(capsys):
    assert run(train_program, "--list", "losses") == 0
    mask, legend, box, classes = capsys.readouterr().out.split("\n\n")
    assert legend.startswith("soft, what a loss does with targets between 0 and 1")
    assert "  huber(delta=0.5) " in mask and "  ciou " in box and "  ohem " in classes
    assert run(train_program, "--list=assigners") == 0 and "max_iou" in capsys.readouterr().out


def test_print_config_is_a_config(capsys, tmp_path):
    assert (
        run(
            train_program,
            "--config=yolact_base",
            "--batch_size=16",
            "loss.mask=bce + 0.5*mse",
            "--print_config",
        )
        == 0
    )
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    assert load_config(tmp_path / "mine.yaml") == load_config(
        "yolact_base", ["train.batch_size=16", "loss.mask=bce + 0.5*mse"]
    )


# --------------------------------------------------------------------------------------------- eval

TINY = [
    "model.backbone=resnet10",
    "model.backbone_width=8",
    "model.max_size=96",
    "model.fpn_channels=16",
    "model.proto_channels=16",
    "model.head_channels=16",
    "model.prototypes=8",
    "model.norm=batch",
    "eval.max_dets=5",
    "eval.score_threshold=0",
    "train.batch_size=2",
    "train.iterations=2",
    "train.num_workers=0",
    "train.warmup_iterations=0",
    "name=tiny",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps on six drawn discs, made by train.py itself."""
    root = tmp_path_factory.mktemp("cli")
    for split, count in (("train", 4), ("val", 2)):
        (root / split / "images").mkdir(parents=True)
        content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cig_butt"}]}
        for i in range(count):
            image = np.full((80, 100, 3), 90, np.uint8)
            cv2.circle(image, (50, 40), 15 + i, (220, 200, 60), -1)
            cv2.imwrite(str(root / split / "images" / f"{split}_{i}.png"), image + np.uint8(i))
            corner = [35 - i, 25 - i, 65 + i, 55 + i]
            content["images"].append(
                {"id": i, "file_name": f"{split}_{i}.png", "width": 100, "height": 80}
            )
            content["annotations"].append(
                {
                    "id": i,
                    "image_id": i,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": (30 + 2 * i) ** 2,
                    "bbox": [corner[0], corner[1], 30 + 2 * i, 30 + 2 * i],
                    "segmentation": [
                        [
                            corner[0],
                            corner[1],
                            corner[2],
                            corner[1],
                            corner[2],
                            corner[3],
                            corner[0],
                            corner[3],
                        ]
                    ],
                }
            )
        (root / split / "coco_annotations.json").write_text(json.dumps(content))
    assert (
        run(
            train_program,
            "--config=yolact_small_cigarettes",
            "--cuda=False",
            f"--save_folder={root / 'runs'}",
            f"data.root={root}",
            *TINY,
        )
        == 0
    )
    return root / "runs" / "tiny" / "1"


def evaluated(trained, *words):
    return run(eval_program, f"--trained_model={trained}", "--cuda=False", "--no_bar", *words)


def test_trained_run_evaluates_with_its_own_config(trained, capsys, tmp_path):
    boxes, masks = tmp_path / "a" / "boxes.json", tmp_path / "masks.json"
    assert (
        evaluated(
            trained, "--output_coco_json", f"--bbox_det_file={boxes}", f"--mask_det_file={masks}"
        )
        == 0
    )
    table = capsys.readouterr().out
    assert " all  |" in table and " mask |" in table
    assert len(json.loads(boxes.read_text())) == len(json.loads(masks.read_text())) == 2 * 5
    assert (
        evaluated(trained, "--resume", f"--bbox_det_file={boxes}", f"--mask_det_file={masks}") == 0
    )
    assert (
        capsys.readouterr().out.splitlines()[:4]
        == [line for line in table.splitlines() if "|" in line or "+" in line][:4]
    )


@pytest.mark.parametrize("words", [["{0}:{1}"], ["{0}", "{1}"]])
def test_image_and_what_explains_it(trained, capsys, tmp_path, words):
    source, output = trained.parents[2] / "val" / "images" / "val_0.png", tmp_path / "out.jpg"
    words = [word.format(source, output) for word in words]
    assert (
        evaluated(
            trained,
            "--image",
            *words,
            "eval.max_dets=2",
            "--display_prototypes",
            "--display_lincomb",
            "--score_threshold=0",
        )
        == 0
    )
    assert cv2.imread(str(output)).shape == (80, 100, 3)
    assert (tmp_path / "out_prototypes.png").stat().st_size and (
        tmp_path / "out_lincomb_1.png"
    ).stat().st_size
    assert "2 drawn of 2" in capsys.readouterr().out


def test_folder_of_images(trained, tmp_path):
    assert (
        evaluated(trained, f"--images={trained.parents[2] / 'val' / 'images'}:{tmp_path / 'out'}")
        == 0
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["val_0.png", "val_1.png"]


def test_display_writes_pictures_beside_ground_truth(trained, tmp_path):
    assert (
        evaluated(
            trained,
            "--display",
            f"--display_folder={tmp_path}",
            "--max_images=1",
            "--shuffle",
            "--seed=1",
        )
        == 0
    )
    assert len(list(tmp_path.glob("*.png"))) == 1


def test_benchmark_prints_stages(trained, capsys):
    assert evaluated(trained, "--benchmark", "--max_images=2") == 0
    assert "forward" in capsys.readouterr().out


def test_config_from_inside_the_checkpoint(trained, capsys, tmp_path):
    copy = tmp_path / "somewhere.pth"
    shutil.copy(trained / "weights" / "last.pth", copy)
    assert run(eval_program, f"--trained_model={copy}", "--cuda=False", "--no_bar") == 0
    assert " mask |" in capsys.readouterr().out


@pytest.mark.parametrize(
    "stem, expected",
    [
        ("yolact_base_54_800000", "yolact_base"),
        ("yolact_plus_resnet50_54_800000", "yolact_plus_resnet50"),
        ("yolact_im700_54_800000_interrupt", "yolact_im700"),
        ("yolact_darknet53", "yolact_darknet53"),
    ],
)
def test_config_from_the_official_file_name(tmp_path, stem, expected):
    from yolact.engine.load import find_config

    assert find_config(tmp_path / f"{stem}.pth", {}, overrides=["eval.top_k=7"]) == load_config(
        expected, ["eval.top_k=7"]
    )


@pytest.mark.parametrize(
    "words, expected",
    [
        ({"fast_nms": False}, ["eval.nms=traditional"]),
        ({"cross_class_nms": True}, ["eval.nms=cross_class"]),
        ({"no_crop": True}, ["eval.crop=false"]),
        ({"dataset": "nuclei"}, ["dataset=nuclei"]),
    ],
)
def test_detection_flags_are_settings(words, expected):
    arguments = eval_program.parser().parse(
        [f"--{flag}={value}" for flag, value in words.items()] + ["eval.top_k=3"]
    )
    assert eval_program.overrides(arguments) == [*expected, "eval.top_k=3"]


@pytest.mark.parametrize(
    "given, expected",
    [
        (["a.jpg:b.jpg"], ("a.jpg", "b.jpg")),
        (["a.jpg", "b.jpg"], ("a.jpg", "b.jpg")),
        (["a.jpg"], ("a.jpg", None)),
        (["x:y/a.jpg", "b.jpg"], ("x:y/a.jpg", "b.jpg")),
        (["0:out.mp4"], ("0", "out.mp4")),
        (["rtsp://cam/stream"], ("rtsp://cam/stream", None)),
        (["rtsp://cam:554/stream"], ("rtsp://cam:554/stream", None)),
        (["rtsp://cam:554/stream:out.mp4"], ("rtsp://cam:554/stream", "out.mp4")),
    ],
)
def test_in_and_out(given, expected):
    assert eval_flags.in_out("--image", given, output_needed=False) == expected


def test_in_that_holds_a_colon_and_exists(tmp_path):
    path = tmp_path / "12:30.jpg"
    path.write_bytes(b"")
    assert eval_flags.in_out("--image", [str(path)], output_needed=False) == (str(path), None)


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], "--trained_model=PATH is needed"),
        (["--trained_model=not_there.pth"], "not_there.pth does not exist"),
        (["--trained_model=tests"], "holds no weights/best.pth"),
        (["--trained_model=x", "--image=a", "--video=b"], "one at a time"),
        (["--trained_model=x", "--output_web_json"], "no web viewer"),
        (["--trained_model=x", "--display_lincomb"], "--image=IN:OUT or --display"),
        (["--trained_mdel=x"], "did you mean --trained_model"),
    ],
)
def test_eval_refuses_in_one_line(capsys, monkeypatch, words, expected):
    monkeypatch.chdir(ROOT)
    assert expected in refused(capsys, eval_program, *words)


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--image=not_there.jpg:out.jpg"], "not_there.jpg"),
        (["--images=not_there:out"], "not_there"),
        (["--video=not_there.mp4:out.mp4"], "not_there.mp4"),
        (["--images=somewhere"], "--images=IN:OUT"),
        (["--dataset=nuclei"], "nuclei"),
        (["model.fpn_channels=24"], "does not fit"),
        (["data.class_names=[a,b]"], "class"),
    ],
)
def test_eval_of_a_run_refuses_in_one_line(trained, capsys, words, expected):
    assert evaluated(trained, *words) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and expected in message


def test_weights_of_nothing_in_particular(tmp_path, capsys):
    import torch

    torch.save({"a": torch.zeros(1)}, tmp_path / "mystery.pth")
    assert "add --config=NAME" in refused(
        capsys, eval_program, f"--trained_model={tmp_path / 'mystery.pth'}"
    )
