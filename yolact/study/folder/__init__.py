"""The one owner of what lies where in the folders of runs and studies, and of what it says.

layout: names of files and folders. reading: what a run's files say. kept: finished runs without
weights. locks: who trains a run. progress: where a run is and how far. None imports torch.
"""
