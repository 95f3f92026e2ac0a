# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own scans: from DICOM to NIfTI
#
# Folders with DICOM series of CT and MR become a prepared data set with registered pairs, and one MR is undersampled,
# reconstructed and written as NIfTI on its own grid. The commands are those of a terminal.

# %%
import json
import os
import shutil
import subprocess
import sys

import nibabel
import numpy as np
import pydicom
from pictures import folder, show
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from atlf_jax.data import PhantomConfig, PhantomSource

work = folder() / "own_scans"
shutil.rmtree(work, ignore_errors=True)

# %% [markdown]
# ## Two series, as a scanner exports them
# A generated head of eight slices, 64 x 64 pixels of 3.6 mm. The CT lies 5 mm to the side, as if the patient had been
# laid down anew.


# %%
def write_series(path, volume, *, modality, shift=0.0):
    """Write one DICOM file a slice; ``volume`` is ``[slices, rows, columns]`` in Hounsfield units or MR signal."""
    path.mkdir(parents=True)
    series = generate_uid()
    for number, pixels in enumerate(volume):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        file.PatientName, file.PatientID, file.Modality, file.SeriesInstanceUID = "Doe^Jane", "4711", modality, series
        file.Rows, file.Columns = pixels.shape
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
        file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 0
        file.PixelSpacing, file.SliceThickness = [3.6, 3.6], 12.0
        file.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        file.ImagePositionPatient = [-115 + shift, -115, 12.0 * number]
        if modality == "CT":
            file.RescaleSlope, file.RescaleIntercept = 1, -1024
            pixels = pixels + 1024
        file.PixelData = np.round(pixels).astype("<u2").tobytes()
        pydicom.dcmwrite(path / f"IM{number:04d}.dcm", file, enforce_file_format=True)


heads = PhantomSource(PhantomConfig(size=64, ct_window="wide"))
slices = [heads[index] for index in range(8)]
ct = np.stack([slice_.ct for slice_ in slices]) * 3000 - 1000  # the window "wide" is -1000 to 2000
mr = np.stack([np.abs(slice_.target) for slice_ in slices])
write_series(work / "scans/anna/ct", ct, modality="CT", shift=5.0)
write_series(work / "scans/anna/mr", 2000 * mr / mr.max(), modality="MR")
(work / "pairs.csv").write_text("subject,ct,mr\nanna,scans/anna/ct,scans/anna/mr\n")
print((work / "pairs.csv").read_text())

# %% [markdown]
# ## Prepare
# Reads the series, registers the CT to the MR, and writes NIfTI files on the grid of the MR with a page `qc.html` to
# look at. No name or number of the patient is kept: `subject` is a code of yours.


# %%
def run(*arguments):
    """Run a program of the package and print what it says, without the colours that notebooks ask for."""
    plain = {name: value for name, value in os.environ.items() if "COLOR" not in name}
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, env=plain, capture_output=True, text=True)
    print(done.stdout + done.stderr)
    done.check_returncode()


run("atlf_jax.data.prepare", "table", work / "pairs.csv", work / "prepared", "--registration", "rigid")

# %% [markdown]
# ## Reconstruct
# The MR is undersampled by a drawn mask and reconstructed; the CT is registered on the way. The record beside the image
# says how it was made and what was doubtful. `--force` writes the image whatever the judgement, which is right for a
# trial alone: the network was trained on other data.

# %%
run(
    "atlf_jax.reconstruct",
    work / "scans/anna/mr",
    work / "image.nii.gz",
    *("--checkpoint", "aanlib-best", "--masks", "variable_density_2d", 4, 0.08),
    *("--ct.path", work / "scans/anna/ct", "--ct.register", "rigid", "--ct.window", "brain", "--force"),
)

# %%
image = nibabel.load(work / "image.nii.gz")
record = json.loads((work / "image.json").read_text())
print("image", image.shape, "voxels of", np.round(image.header.get_zooms(), 2), "mm")
print("record:", ", ".join(record))

# %%
pair = {name: nibabel.load(work / "prepared/anna" / f"{name}.nii.gz") for name in ("ct", "mr")}
middle = 4
show(
    "own_scans",
    {
        "CT, registered": np.clip(pair["ct"].get_fdata()[..., middle].T / 80, 0, 1),
        "MR": pair["mr"].get_fdata()[..., middle].T / 2000,
        "reconstructed at 4x": image.get_fdata()[..., middle].T / 2000,
    },
    columns=3,
)
