"""The arguments of ``atlf reconstruct``."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import tyro

from atlf_jax import command_line
from atlf_jax.masks import MaskConfig
from atlf_jax.reconstruct.ct_weight import CTWeight
from atlf_jax.reconstruct.methods import Method, Regularisation
from atlf_jax.reconstruct.scan import CTConfig, KSpaceConfig, SamplingConfig
from atlf_jax.reconstruct.slices import CoilMaps
from atlf_jax.trained.network import Network, load

__all__ = ["Arguments", "named_network", "parse"]


@dataclass(frozen=True)
class Arguments:
    """Reconstruct undersampled k-space, or undersample a whole MR volume and reconstruct it."""

    input: Annotated[str, tyro.conf.arg(metavar="INPUT")]
    """MR volume (NIfTI, DICOM folder or enhanced file, .mha, .nrrd) or k-space (fastMRI or ISMRMRD .h5, Siemens twix
    .dat, BART .cfl, MATLAB .mat, .npy, .npz)."""
    out: Annotated[str, tyro.conf.arg(metavar="OUTPUT")]
    """File to write: .nii or .nii.gz, of k-space also .h5 (magnitude), .cfl or .npy (complex); of a DICOM series also a
    new folder (a name without an ending), for a series derived from it. A .json beside it tells how it was made."""
    checkpoint: str = ""
    """Folder of a training run, a packed file, or the name of weights that come with the package."""
    which: Literal["best", "latest"] = "best"
    """Which checkpoint of a run."""
    code: tuple[str, ...] = ()
    """Files of your own code that a packed network needs: their names stand in the message that asks for them."""
    method: Method = "network"
    """The trained network, or what needs no checkpoint: the zero-filled image or a classical solver."""
    regularisation: Regularisation = "withheld"
    """Of a solver: a number, for images with max|A^H y| = 1; or the rule that chooses it: withheld, the number that
    predicts withheld samples best; discrepancy, the largest that explains the data up to their known noise."""
    series: str = ""
    """Which series of a DICOM folder with several: its number or UID."""
    volume: int | None = None
    """Which volume of a series in time, of echoes or the like, from 0."""
    mask: Annotated[MaskConfig, tyro.conf.arg(name="masks")] = MaskConfig("random_exact")
    """Drawn where the scan has no mask; the default is the one that the network was trained with, the first where there
    were several."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Where the mask comes from."""
    ct: CTConfig = field(default_factory=CTConfig)
    """The CT."""
    kspace: KSpaceConfig = field(default_factory=KSpaceConfig)
    """How k-space arrays are read."""
    coils: CoilMaps = "espirit"
    """How coil maps are estimated; the default is the way that the network was trained with."""
    noise_covariance: str = ""
    """.npy, [c, c]: whiten the coils with it."""
    virtual_coils: int | None = None
    """Compress to as many coils."""
    mirror_average: bool = False
    """Average over what the network makes of each slice and of its three mirror images: a smaller error, in four times
    the time; the default is as the network was packed."""
    hard_consistency: bool = False
    """Put the measured samples back after the network."""
    uncertainty: bool = False
    """Also write STEM_error, the expected absolute error of every pixel; three more reconstructions a slice."""
    check_ct: bool = False
    """Also measure whether the CT helps: how much better the network predicts withheld samples with it than without;
    two more reconstructions a slice."""
    ct_weight: CTWeight = 1.0
    """How much of what the CT changes is taken: 1 = all, 0 = nothing; withheld = the weight with which withheld samples
    of all slices are predicted best, so that a CT that does not fit does no harm; three more reconstructions a
    slice."""
    force: bool = False
    """Write the image even where it is judged to be wrong (docs/trust.md, "Levels of judgement")."""
    batch_size: int = 4
    """Slices on the device at a time; no more than there are."""
    panels: bool = False
    """Also write a .png with three slices."""
    overwrite: bool = False
    """Replace files that are there."""
    dry_run: bool = False
    """Check everything, say what would be done, and write nothing."""


def parse(argv: Sequence[str], network: Network | None = None, *, program: str = "atlf reconstruct") -> Arguments:
    """Parse the command line; the default mask and CT windows are those of the network's training.

    Args:
        argv: arguments after the program's name.
        network: the one that the arguments name; it is loaded here if it is not given.
        program: its name, for messages.
    """
    network = network or named_network(argv)
    default = Arguments(input=tyro.MISSING, out=tyro.MISSING)
    if network is not None:
        default = replace(default, mask=network.trained_for.masks[0], mirror_average=network.mirror_average)
        way: Any = network.trained_for.coil_maps
        default = replace(default, coils=way or default.coils)
        windows: Any = network.trained_for.windows
        if windows:
            default = replace(default, ct=CTConfig(window=windows[0] if len(windows) == 1 else windows))
    argv, (mask,) = command_line.apply_old_mask_flags(argv, (default.mask,), several=False)
    default = replace(default, mask=mask)
    positional = Annotated[Arguments, tyro.conf.PositionalRequiredArgs]
    return command_line.parse(positional, argv, program=program, default=default)


def named_network(argv: Sequence[str]) -> Network | None:
    """Load the network that the arguments name, before they are parsed: their defaults depend on it."""
    place, which = _last(argv, "--checkpoint"), _last(argv, "--which")
    code = list(_files_after(argv, "--code"))
    return load(place, "latest" if which == "latest" else "best", code=code) if place else None


def _files_after(argv: Sequence[str], flag: str) -> Iterator[str]:
    """Yield the values of a flag that takes several: ``--code a.py b.py``."""
    taking = False
    for text in argv:
        if text.startswith(f"{flag}="):
            yield text.partition("=")[2]
        elif taking and not text.startswith("-"):
            yield text
        taking = text == flag or (taking and not text.startswith("-"))


def _last(argv: Sequence[str], flag: str) -> str:
    """Return the last value of a flag; "" if it was not given."""
    values = [value for name, value in itertools.pairwise([*argv, ""]) if name == flag]
    values += [text.partition("=")[2] for text in argv if text.startswith(f"{flag}=")]
    return values[-1] if values else ""
