"""The programs: a module each. `yolact NAME`, train.py, eval.py and scripts/ open them."""

# subcommand of `yolact` -> (module here, what it does)
COMMANDS = {
    "import": ("import_data", "make COCO files and a config of what an annotation tool wrote"),
    "train": ("train", "train a model, or go on with a run"),
    "eval": ("eval", "AP of a model; pictures and videos of what it finds; time per stage"),
    "predict": ("predict", "what is found in pictures and videos: drawn, and as JSON, masks, CSV"),
    "export": ("export", "a model for another runtime: ONNX, OpenVINO, torch.export"),
    "quickstart": ("quickstart", "make a small set, train on it, evaluate and draw, in minutes"),
    "list": ("catalogue", "list configs, data sets, losses or assigners"),
    "check": ("check_data", "what is wrong with a COCO-format data set, and the fix"),
    "check-device": ("device", "does a GPU compute what the CPU does"),
    "losses": ("losses", "list, check, compare and draw mask losses"),
    "sweep": ("sweep", "run a study: every arm of a YAML file, on this machine or a cluster"),
    "compare": ("compare", "which run is better, and is that certain"),
    "report": ("report", "a study's tables, figures and one HTML page"),
    "bench": ("bench", "time and peak memory of training, inference, loading, evaluation"),
    "plot": ("plot_run", "curves of runs: losses, learning rate, AP"),
    "assign": ("analyse_assignment", "which anchors each assigner gives to a data set's instances"),
    "prepare-coco": ("prepare_coco", "put COCO 2017 in its place, and verify it"),
    "prepare-sbd": ("prepare_sbd", "put Pascal SBD in its place, and verify it"),
    "prepare-cigarettes": (
        "prepare_cigarettes",
        "put the cigarette butts in their place, and verify them",
    ),
    "prepare-nuclei": ("prepare_nuclei", "convert the nuclei of the 2018 Data Science Bowl"),
    "make-cigarettes": ("make_cigarettes", "make the synthetic stand-in of the cigarette butts"),
    "make-shapes": ("make_shapes", "make a set of many kinds of things, to start trainings from"),
    "check-reference": ("check_reference", "compare with numbers of published implementations"),
}
