"""Volumes with their position in the patient: reading, writing, resampling and slicing, with geometry by nibabel.

An affine maps voxel indices to RAS+ coordinates of the patient in mm: x grows to the right, y to the front, z to the
head. Voxels stay in the order of their file; only ``to_slices`` turns them, for the network, and ``from_slices`` turns
them back.
"""

import gzip
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from beartype import beartype
from jaxtyping import Float, Float32, Float64, jaxtyped

from atlf_jax.data.files import write_file
from atlf_jax.data.inputs import FileError, check_memory, read_start, reading, unpacked

__all__ = [
    "ITK",
    "Volume",
    "from_slices",
    "orientation",
    "read_itk",
    "read_nifti",
    "resample",
    "slice_axis",
    "to_slices",
    "unplaced",
    "write_nifti",
]

ITK = (".mha", ".mhd", ".nrrd", ".nhdr")  # endings of files that SimpleITK reads
_MILLIMETRES = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}  # of the header's unit of length: unknown, metre, mm, micron


@jaxtyped(typechecker=beartype)
@dataclass(frozen=True)
class Volume:
    """Voxels and their position in the patient.

    Attributes:
        data: values ``[i, j, k]``; CT in Hounsfield units, MR in arbitrary units.
        affine: voxel indices to RAS+ coordinates of the patient, in mm.
        codes: qform and sform codes of its NIfTI header, with which results are saved.
        through: voxel axis along which the slices were acquired, from the header; None if it does not say.
    """

    data: Float32[np.ndarray, "i j k"]
    affine: Float64[np.ndarray, "4 4"]
    codes: tuple[int, int] = (1, 1)
    through: int | None = None

    @property
    def spacing(self) -> np.ndarray:
        """Distance of neighbouring voxels along each axis, in mm, ``[3]``."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


@beartype
def read_nifti(path: str | Path, *, volume: int | None = None) -> Volume:
    """Read one three-dimensional NIfTI file; stored values are scaled and header units are turned to mm.

    The sform is taken where its code is set, else the qform, else the spacing alone, with x to the patient's left as
    nibabel has it (codes ``(0, 0)``: where left and right are, the file does not say).

    Args:
        path: ``.nii`` or ``.nii.gz``, NIfTI-1 or NIfTI-2.
        volume: index of one volume, for a series of time points or echoes (four dimensions).

    Returns:
        The voxels in the file's own order.

    Raises:
        ValueError: naming the file, what was found and what to do: not a NIfTI file, cut short, of other than three
            dimensions, no plain numbers, non-finite voxels, spacing that is not positive, a singular affine.
    """
    path = Path(path)
    with reading(path, "a NIfTI file", "wanted one .nii or .nii.gz"):
        header, stored, affine = _read_voxels(path, volume)
        shape = stored.shape[:3]
    with np.errstate(over="ignore"):
        data = stored.reshape(shape).astype(np.float32, order="C")
    if bad := np.count_nonzero(~np.isfinite(data)):
        raise FileError(
            path,
            f"holds {bad} voxels of {data.size} that are not finite numbers",
            "replace them (-1000 in a CT, 0 in an MR)",
        )
    unit = int(header["xyzt_units"]) & 7
    if unit not in _MILLIMETRES:
        raise FileError(path, f"has unit of length {unit}", "wanted 1 (m), 2 (mm) or 3 (micron)")
    affine[:3] *= _MILLIMETRES[unit]
    check_affine(affine, str(path))
    codes = (int(header["qform_code"]), int(header["sform_code"]))
    return Volume(data, affine, codes, header.get_dim_info()[2])


@beartype
def read_itk(path: str | Path, *, volume: int | None = None) -> Volume:
    """Read a MetaImage or NRRD file by SimpleITK; its LPS+ coordinates become RAS+.

    Args:
        path: ``.mha``, ``.mhd``, ``.nrrd`` or ``.nhdr``.
        volume: index along the fourth axis, if there is one.

    Raises:
        ValueError: SimpleITK is missing, or naming the file, what was found and what to do.
    """
    path = Path(path)
    try:
        import SimpleITK
    except ImportError as error:
        raise FileError(
            path, "needs SimpleITK to be read", "pip install 'atlf-jax[registration]', or make it a NIfTI file"
        ) from error
    with reading(path, "a MetaImage or NRRD file"):
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        sides = reader.GetSize()
        check_memory(path, 12 * int(np.prod(sides, dtype=object)), f"voxels {sides}")
        image = reader.Execute()
        if image.GetDimension() == 4:
            if volume is None and sides[3] > 1:
                raise FileError(path, f"has shape {sides}", "choose one volume: --volume 0 or higher")
            if not 0 <= (volume or 0) < sides[3]:
                raise FileError(path, f"holds {sides[3]} volumes", f"wanted --volume 0 to {sides[3] - 1}, not {volume}")
            image = image[:, :, :, volume or 0]
        if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
            raise FileError(path, f"has shape {sides}", "wanted three dimensions of plain numbers")
        data = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0).astype(np.float32)
        if not np.isfinite(data).all():
            raise FileError(path, "holds voxels that are not finite numbers", "replace them")
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        affine[:2] *= -1
        check_affine(affine, str(path))
        return Volume(np.ascontiguousarray(data), affine + 0.0)


def check_affine(affine: np.ndarray, where: str) -> None:
    """Refuse an affine that does not place voxels in space.

    Raises:
        ValueError: it has non-finite entries or is singular; ``where`` begins the message.
    """
    edges = affine[:3, :3]
    # the volume of a voxel against that of a box with the same edges: 1 where they are perpendicular
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(edges, axis=0)
        independent = np.isfinite(affine).all() and lengths.all() and abs(np.linalg.det(edges / lengths)) >= 1e-3
    if not independent:
        rows = np.array2string(affine[:3], precision=4)
        remedy = "wanted three independent axes (repair sform and qform)"
        raise FileError(where, f"has a singular affine {rows}", remedy)


@beartype
def write_nifti(path: str | Path, volume: Volume) -> None:
    """Write a volume; the file is written completely or not at all, and equal volumes give equal bytes.

    Args:
        path: ``.nii`` or ``.nii.gz``; its folder is created if it is missing.
        volume: what to write; qform and sform are both its affine, under its codes. Where the qform alone has a code
            and cannot hold the affine (a shear), the sform gets one too.

    Raises:
        ValueError: another ending, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_nifti(f"{folder}/mr.nii.gz", Volume(np.ones((2, 3, 4), np.float32), np.eye(4)))
        ...     read_nifti(f"{folder}/mr.nii.gz").data.shape
        (2, 3, 4)
    """
    import nibabel

    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path} ends in neither .nii nor .nii.gz; name it so")
    image = nibabel.Nifti1Image(volume.data, volume.affine)
    qform, sform = volume.codes
    image.set_qform(volume.affine, qform)
    if not sform and not np.allclose(image.get_qform(), volume.affine, rtol=0, atol=1e-3):
        sform = 1
    image.set_sform(volume.affine, sform)
    image.header.set_xyzt_units("mm")
    image.header.set_dim_info(slice=volume.through)
    content = image.to_bytes()
    write_file(path, gzip.compress(content, 4, mtime=0) if path.name.endswith(".gz") else content)


@beartype
def resample(
    moving: Volume, like: Volume, *, transform: np.ndarray | None = None, order: int = 1, outside: float = 0.0
) -> Volume:
    """Resample a volume to the grid of another in one interpolation.

    ``out[p] = moving[A_moving^-1 T A_like p]``; a voxel reaches half its size beyond its centre.

    Args:
        moving: the volume to resample.
        like: the volume whose grid and codes are taken.
        transform: ``T`` ``[4, 4]``, RAS+ mm of ``like`` to RAS+ mm of ``moving``; the identity by default.
        order: 0 nearest, 1 linear, 3 cubic.
        outside: value beyond the moving volume (-1000 for CT).

    Returns:
        The values of ``moving`` on the grid of ``like``.

    Raises:
        ValueError: for a singular transform.

    Example:
        >>> small = Volume(np.ones((2, 2, 2), np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
        >>> large = Volume(np.zeros((5, 5, 5), np.float32), np.eye(4))
        >>> resample(small, large, outside=-1000.0).data[:, 0, 0]
        array([    1.,     1.,     1.,     1., -1000.], dtype=float32)
    """
    transform = np.eye(4) if transform is None else np.asarray(transform, np.float64)
    check_affine(transform, "the transform")
    matrix = np.linalg.solve(moving.affine, transform @ like.affine).round(9)  # equal grids give exact voxels
    shape = like.data.shape
    # Beyond the centres of the outermost voxels the nearest value holds: rounding never blanks the border.
    data = scipy.ndimage.affine_transform(
        moving.data, matrix[:3, :3], matrix[:3, 3], output_shape=shape, order=order, mode="nearest"
    )
    i, j, k = np.ogrid[tuple(slice(side) for side in shape)]
    for row, side in zip(matrix[:3], moving.data.shape, strict=True):
        place = (row[0] * i + row[3]) + row[1] * j + row[2] * k
        data[(place < -0.5 - 1e-6) | (place > side - 0.5 + 1e-6)] = outside
    return Volume(data, like.affine, like.codes, like.through)


@beartype
def slice_axis(volume: Volume) -> int:
    """Return the acquisition's slice axis.

    An axis of one voxel is the one across a single slice, whatever its spacing. Else it is what the header says; where
    that is silent, the axis of widest spacing, and of equal ones the most inferior-superior.

    Example:
        >>> slice_axis(Volume(np.ones((24, 28, 1), np.float32), np.diag([2.0, 2.0, 1.0, 1.0])))
        2
    """
    single = np.equal(volume.data.shape, 1)
    if volume.through is not None and (single[volume.through] or not single.any()):
        return volume.through
    spacing = volume.spacing
    wide = spacing * (single if single.any() else 1)
    rise = np.abs(volume.affine[2, :3]) / spacing
    return int(np.argmax(np.where(wide > 0.98 * wide.max(), 1 + rise, 0)))


@beartype
def orientation(volume: Volume) -> str:
    """Return where the voxel axes point, such as ``LPS``; an oblique axis counts as its nearest.

    Example:
        >>> orientation(Volume(np.zeros((2, 2, 2), np.float32), np.diag([-1.0, -1.0, 1.0, 1.0])))
        'LPS'
    """
    import nibabel

    return "".join(code or "?" for code in nibabel.aff2axcodes(volume.affine))


@beartype
def to_slices(volume: Volume) -> Float32[np.ndarray, "s h w"]:
    """Return the slices along the acquisition axis, turned as radiologists look at them.

    Rows run from the head to the feet, in slices that cut across the body from the front to the back; columns run from
    the patient's right to the left, in sagittal slices from the front to the back. Slices run from the feet to the
    head, from the back to the front, or from the left to the right.

    Example:
        >>> axial = Volume(np.zeros((4, 5, 3), np.float32), np.diag([1.0, 1.0, 6.0, 1.0]))
        >>> to_slices(axial).shape
        (3, 5, 4)
    """
    order, flipped = _view(volume)
    return np.ascontiguousarray(np.flip(volume.data.transpose(order), flipped))


@jaxtyped(typechecker=beartype)
def from_slices(slices: Float[np.ndarray, "s h w"], like: Volume) -> Volume:
    """Put slices back into the voxel order of the volume that they were taken from; undoes ``to_slices``.

    Args:
        slices: one image for each slice of ``to_slices(like)``.
        like: the volume whose grid and codes are taken.

    Raises:
        ValueError: when number or size of the slices is another.

    Example:
        >>> volume = Volume(np.arange(60, dtype=np.float32).reshape(4, 5, 3), np.diag([1.0, 1.0, 6.0, 1.0]))
        >>> bool((from_slices(to_slices(volume), volume).data == volume.data).all())
        True
    """
    order, flipped = _view(like)
    wanted = tuple(like.data.shape[axis] for axis in order)
    if slices.shape != wanted:
        raise ValueError(f"slices have shape {slices.shape}; wanted {wanted}, as to_slices gives them")
    data = np.flip(slices, flipped).transpose(np.argsort(order))
    return Volume(np.ascontiguousarray(data, np.float32), like.affine, like.codes, like.through)


@jaxtyped(typechecker=beartype)
def unplaced(slices: Float[np.ndarray, "s h w"], spacing: tuple[float, float, float] | None = None) -> Volume:
    """Return a volume of slices whose position in the patient is not known, with codes ``(0, 0)``.

    Args:
        slices: in the order of ``to_slices``.
        spacing: mm between rows, columns and slices; None: not known, 1 mm.

    Returns:
        The volume, with the affine that readers take where a NIfTI file has no code: the centre at zero.

    Example:
        >>> volume = unplaced(np.zeros((3, 5, 4)), (0.5, 0.5, 6.0))
        >>> volume.data.shape, volume.spacing.tolist()
        ((4, 5, 3), [0.5, 0.5, 6.0])
    """
    down, across, through = spacing or (1.0, 1.0, 1.0)
    data = np.ascontiguousarray(slices[:, ::-1].transpose(2, 1, 0), np.float32)  # columns, rows upwards, slices
    affine = np.diag([-across, down, through, 1.0])
    affine[:3, 3] = affine[:3, :3] @ (1 - np.array(data.shape)) / 2
    return Volume(data, affine, codes=(0, 0), through=2)


def _view(volume: Volume) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """Return the voxel axes in the order slice, row, column, and which of these three are to be flipped."""
    import nibabel

    turned = nibabel.io_orientation(volume.affine)  # of each voxel axis: nearest axis of the patient, and its sign
    towards, sign = turned[:, 0].astype(int), turned[:, 1]
    through = slice_axis(volume)
    left, right = (axis for axis in range(3) if axis != through)
    row, column = sorted((left, right), key=lambda axis: -towards[axis])  # z before y before x
    order = (through, row, column)
    # The patient's z, y and x all fall along rows and columns: to the feet, to the back, to the left.
    wanted = (1, -1, -1)
    flipped = tuple(place for place in range(3) if sign[order[place]] != wanted[place])
    return order, flipped


def _read_voxels(path: Path, volume: int | None) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return header, stored voxels (scaled) and affine of a file whose size is what its header says."""
    import nibabel

    start = read_start(path, 132, "a NIfTI file")
    if start[128:] == b"DICM":
        raise FileError(path, "is one slice of a DICOM series", f"give the folder that holds it: {path.parent}")
    with unpacked(path) as file:
        content = file.read(540)  # of NIfTI-2; that of NIfTI-1 is shorter
        if content[344:348] == b"n+1\0":
            kind = nibabel.Nifti1Image
        elif content[4:8] == b"n+2\0":
            kind = nibabel.Nifti2Image
        else:
            raise FileError(path, "is not a NIfTI file", "wanted one .nii or .nii.gz (dcm2niix makes it from DICOM)")
        header = kind.header_class.from_fileobj(io.BytesIO(content), check=False)
        shape, count, item = _checked_shape(path, header, volume)
        offset = header.get_data_offset()
        if offset < header.single_vox_offset:
            raise FileError(path, f"has its voxels at byte {offset}, inside its header", "export it again")
        size = offset + item * count * int(np.prod(shape, dtype=object))
        sides = " x ".join(map(str, shape))
        check_memory(path, size + 12 * (size - offset) // item, f"voxels {sides}")  # and three float32 copies
        content += file.read(max(size - len(content), 0))
        if len(content) != size or file.read(1):
            longer = "longer" if len(content) >= size else "shorter"
            raise FileError(
                path,
                f"is damaged or cut short: {longer} than the {size} bytes that its header tells of, {sides} voxels",
                "copy it again",
            )
    with nibabel.imageglobals.LoggingOutputSuppressor(), np.errstate(all="ignore"):  # what matters is checked here
        image = kind.from_bytes(content)
        stored = np.asarray(image.dataobj if count == 1 else image.dataobj[..., volume]).reshape(shape)
    return header, stored, np.array(image.affine, np.float64)


def _checked_shape(path: Path, header: Any, volume: int | None) -> tuple[tuple[int, int, int], int, int]:
    """Return the three sides of a volume, how many volumes there are, and the bytes of a voxel."""
    import nibabel

    sides = tuple(int(side) for side in header.get_data_shape())
    several = len(sides) == 4 and sides[3] > 1
    if several and volume is not None and not 0 <= volume < sides[3]:
        raise FileError(path, f"holds {sides[3]} volumes", f"wanted --volume 0 to {sides[3] - 1}, not {volume}")
    if len(sides) < 3 or min(sides) < 1 or any(side != 1 for side in sides[4 if several else 3 :]):
        raise FileError(path, f"has shape {sides}", "wanted three dimensions")
    if several and volume is None:
        raise FileError(
            path,
            f"has shape {sides}",
            "wanted three dimensions (of a series in time or echo, choose one volume: --volume 0 or higher)",
        )
    spacing = np.array(header["pixdim"][1:4], np.float64)
    if not ((spacing > 0) & np.isfinite(spacing)).all():
        amount = "finite" if (spacing > 0).all() else "positive"
        raise FileError(path, f"has spacing {spacing.tolist()}", f"wanted three {amount} lengths in pixdim")
    try:
        dtype = header.get_data_dtype()
    except (KeyError, nibabel.spatialimages.HeaderDataError) as error:
        raise FileError(
            path, f"is of datatype {int(header['datatype'])}, which NIfTI does not know", "export it again"
        ) from error
    if dtype.kind not in "iuf":
        raise FileError(path, f"holds {dtype} voxels", "wanted plain numbers (of complex: magnitude)")
    x, y, z = sides[:3]
    return (x, y, z), sides[3] if several else 1, dtype.itemsize
