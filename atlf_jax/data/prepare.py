"""Turn folders of scans into a dataset: ``atlf prepare LAYOUT SOURCE OUT [--help]``.

Layouts: ``chaos`` and ``mmwhs`` as they are distributed, ``table``, a CSV file with columns subject, ct, mr (and split,
where wanted) that names NIfTI files or folders with one DICOM series, and ``aanlib``, the pictures. Written are, for
each subject, ``SUBJECT/mr.nii.gz`` as the scanner made it, ``SUBJECT/ct.nii.gz`` in Hounsfield units on the MR's grid
and, where the MR has labels, ``SUBJECT/label.nii.gz``; ``manifest.json``, which tells what every file is; and by the
command ``qc.html``, pictures of every registration. The input is only read. The manifest is written anew after every
subject, so that an interrupted run goes on where it was, and the same input and settings give the same bytes. A subject
that cannot be read is left out and named at the end; the others go on.
"""

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from beartype import beartype

from atlf_jax.data.aanlib import SPLITS, AANLIBConfig, AANLIBSource
from atlf_jax.data.ct import AIR, clean_ct
from atlf_jax.data.dicom import ScannedVolume, is_name_of, is_same_person, read_scan
from atlf_jax.data.example import Example
from atlf_jax.data.files import PARTIAL, NotWritten, check_writable, fingerprint, sha256_of, write_file
from atlf_jax.data.inputs import FileError, contains, read_json, read_png, read_table
from atlf_jax.data.manifest import (
    DIGEST,
    FORMAT,
    LEFT_OUT,
    MANIFEST,
    PARTS,
    PICTURE,
    SUBJECT_FILES,
    SUBJECT_NAME,
    check_records,
    digest_of,
    pairing_of,
)
from atlf_jax.data.registration import RegistrationConfig, apply, body_mask, register
from atlf_jax.data.transforms import CTWindow
from atlf_jax.data.volume import Volume, orientation, resample, slice_axis, to_slices, write_nifti

QC = "qc.html"

__all__ = ["LAYOUTS", "QC", "Pair", "PrepareConfig", "first_of", "prepare", "prepare_all", "share_out"]

# A good registration covers at least this fraction of the MR that the CT covers by the headers. A thin slab that is
# turned away overlaps well, but little.
MIN_COVERAGE = 0.5
SEQUENCES = {  # folders of a CHAOS MR: slices and labels
    "t2spir": ("T2SPIR/DICOM_anon", "T2SPIR/Ground"),
    "t1dual_in": ("T1DUAL/DICOM_anon/InPhase", "T1DUAL/Ground"),
    "t1dual_out": ("T1DUAL/DICOM_anon/OutPhase", "T1DUAL/Ground"),
}


@beartype
@dataclass(frozen=True)
class PrepareConfig:
    """What to read, how to bring CT and MR together, and who is trained on."""

    layout: Literal["chaos", "mmwhs", "table", "aanlib"]
    """How the source is laid out."""
    source: str
    """Folder of the set; for table, the CSV file: columns subject, ct, mr and, where wanted, split."""
    out: str
    """Folder to write; run again into it to go on."""
    sequence: Literal["t2spir", "t1dual_in", "t1dual_out"] = "t2spir"
    """MR of CHAOS."""
    registration: Literal["none", "rigid", "affine", "bspline"] = "rigid"
    """How the CT is brought onto the MR; none trusts the headers."""
    threshold: float = 0.85
    """Least body-mask Dice of a good registration."""
    keep_flagged: bool = False
    """Give pairs of poor registration a split too; by default they are left out."""
    clean: bool = True
    """Turn table, head holder and all else outside the body to air in the CT."""
    window: CTWindow = "soft_tissue"
    """Window that the CT is read through by default; Hounsfield units are stored."""
    qc: bool = True
    """Also write qc.html, pictures of every registration (python -m atlf_jax.evaluation.registration_qc OUT alone)."""
    seed: int = 0
    """Seed of the shares: a tenth of the subjects, at least one, for test, valid and inner_valid each."""


class Pair(NamedTuple):
    """Where the scans of one subject lie."""

    subject: str  # a code; files, records and reports carry it
    ct: Path | None
    mr: Path | None
    pairing: Literal["same subject", "unpaired"]
    split: str = ""  # empty: shared out
    label: Path | None = None  # of the MR: a file, or a folder with one picture a slice
    pictures: Sequence[Example] = ()  # in place of ct and mr


@beartype
def prepare(config: PrepareConfig, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Write the dataset and return its manifest.

    Args:
        config: source, folder to write and settings.
        say: takes the lines that are meant for the person: pairs of different people, subjects, what was left out.

    Raises:
        ValueError: in one line, what is wrong with the input or why something cannot be written. Subjects that were
            finished stay, and count as finished in the next run; where single subjects cannot be read, the others are
            finished first.
    """
    manifest, failures = prepare_all(config, say)
    if failures:
        raise ValueError(first_of(failures))
    return manifest


def first_of(failures: dict[str, str]) -> str:
    subject, why = next(iter(failures.items()))
    others = f" (and {len(failures) - 1} more subjects, named above)" if len(failures) > 1 else ""
    return f"subject {subject}: {why}{others}"


def prepare_all(config: PrepareConfig, say: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, str]]:
    """Write the dataset; return its manifest, and why subjects are missing in it."""
    from rich.progress import Progress

    source, out = Path(config.source), Path(config.out)
    if contains(source, out):
        raise ValueError(f"{out} lies in {source}, which is only read; write to a folder elsewhere")
    pairs = LAYOUTS[config.layout](source, config)
    if not pairs:
        raise FileError(source, "holds no pair of a CT and an MR", "add scans, or choose another folder")
    _check_subjects(source, pairs)
    _check_out(out, source, pairs)
    settings = {name: getattr(config, name) for name in ("layout", "sequence", "registration", "threshold", "clean")}
    finished = _finished(out, settings)
    for partial in out.glob(f"*/.*{PARTIAL}"):  # of a run that was killed
        partial.unlink()
    for pair in pairs:
        if pair.pairing == "unpaired":
            say(f"different people, the sorted CT i with the sorted MR i: {pair.subject}")
    manifest: dict[str, Any] = {}
    records: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    with Progress(transient=True) as progress:
        for pair in progress.track(pairs, description="subjects"):
            try:
                records.append(_prepare_subject(pair, out, config, finished.get(pair.subject)))
            except (ImportError, NotWritten) as error:  # what all subjects need
                raise ValueError(f"subject {pair.subject}: {' '.join(str(error).split())}") from error
            except (MemoryError, RuntimeError, ValueError) as error:  # SimpleITK knows runtime errors only
                failures[pair.subject] = " ".join(str(error).split()) or type(error).__name__
            if records:
                done = len(records) + len(failures) == len(pairs)
                manifest = _manifest(records, len(failures), settings, config, complete=done)
                write_file(out / MANIFEST, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
    if not records:
        raise ValueError(first_of(failures))
    for record in manifest["subjects"]:
        say(_summary(record))
    for subject, why in failures.items():
        say(f"{subject}: not prepared: {why}")
    return manifest, failures


@beartype
def share_out(subjects: Sequence[str], *, seed: int = 0) -> dict[str, str]:
    """Give every subject a split: a tenth, at least one, for valid, test and inner_valid, the others inner_train.

    Args:
        subjects: names; of fewer than four, the splits that are named last stay empty.
        seed: of the order, which otherwise depends on the names alone.

    Example:
        >>> share_out(["a", "b", "c"])
        {'a': 'valid', 'b': 'inner_train', 'c': 'test'}
    """
    order = sorted(subjects, key=lambda subject: hashlib.sha256(f"{seed} {subject}".encode()).digest())
    share = max(1, len(order) // 10)
    first = order[: len(PARTS)]  # one for each split before any has two
    parts = dict(zip(first, PARTS, strict=False))
    more = iter(order[len(PARTS) :])
    for part in PARTS[1:]:
        parts |= dict.fromkeys(itertools.islice(more, share - 1), part)
    parts |= dict.fromkeys(more, PARTS[0])
    return {subject: parts[subject] for subject in sorted(parts)}


@beartype
def _chaos(source: Path, config: PrepareConfig) -> list[Pair]:
    """Pair the CT and MR of CHAOS, which are of different people: the sorted CT i with the sorted MR i."""
    root = next((place for place in (source, source / "Train_Sets") if (place / "CT").is_dir()), None)
    if root is None or not (root / "MR").is_dir():
        raise ValueError(f"{source} holds neither CT/ and MR/ nor Train_Sets/ with these; is it the CHAOS folder?")
    slices, ground = SEQUENCES[config.sequence]
    cts = {case.name: case / "DICOM_anon" for case in _natural((root / "CT").iterdir())}
    mrs = {case.name: case for case in _natural((root / "MR").iterdir())}
    return [
        Pair(
            subject=f"unpaired_ct{ct}_mr{mr}",
            ct=cts[ct],
            mr=mrs[mr] / slices,
            pairing="unpaired",
            label=mrs[mr] / ground if (mrs[mr] / ground).is_dir() else None,
        )
        for ct, mr in zip(cts, mrs, strict=False)
    ]


def _mmwhs(source: Path, config: PrepareConfig) -> list[Pair]:
    """Pair the CT and MR of MM-WHS, which are of different people: the sorted CT i with the sorted MR i."""
    del config
    found = {
        kind: _natural(file for part in ("train", "test") for file in source.glob(f"{kind}_{part}/*_image.nii*"))
        for kind in ("ct", "mr")
    }
    pairs = []
    for ct, mr in zip(found["ct"], found["mr"], strict=False):
        label = mr.with_name(mr.name.replace("_image.nii", "_label.nii"))
        numbers = [file.name.partition("_image.nii")[0].rpartition("_")[2] for file in (ct, mr)]
        subject = f"unpaired_ct{numbers[0]}_mr{numbers[1]}"
        pairs.append(Pair(subject, ct, mr, "unpaired", label=label if label.is_file() else None))
    if not pairs:
        raise ValueError(
            f"{source} holds no ct_train/*_image.nii.gz beside mr_train/*_image.nii.gz; is it the MM-WHS folder?"
        )
    return pairs


def _table(source: Path, config: PrepareConfig) -> list[Pair]:
    """Read the pairs that a CSV file names; its paths are relative to its folder."""
    del config
    columns, rows = read_table(source, "columns subject, ct, mr")
    if not {"subject", "ct", "mr"} <= {*columns} <= {"subject", "ct", "mr", "split"}:
        raise FileError(
            source, f"has columns {', '.join(sorted(columns)) or 'none'}", "wanted subject, ct, mr (and split)"
        )
    pairs = []
    for number, row in rows:
        if None in row.values() or None in row or not row["subject"] or not row["mr"]:
            raise FileError(
                f"{source}, line {number}:", "a field is missing", "wanted a subject, a CT (may be empty) and an MR"
            )
        split = row.get("split") or ""
        if split and split not in PARTS:
            raise FileError(f"{source}, line {number}:", f"split {split!r}", f"wanted {', '.join(PARTS)}, or nothing")
        ct, mr = (source.parent / row[kind] if row[kind] else None for kind in ("ct", "mr"))
        for path in (ct, mr):
            if path is not None and not _exists(path):
                raise FileError(
                    f"{source}, line {number}:", f"...{str(path)[-100:]} does not exist", "correct the path"
                )
        pairs.append(Pair(row["subject"], ct, mr, "same subject", split))
    if not pairs:
        raise ValueError(f"{source} names no subject; add a line for each")
    return pairs


def _aanlib(source: Path, config: PrepareConfig) -> list[Pair]:
    """Gather the pictures of each case; they are registered, and split as ``aanlib.SPLITS`` says."""
    del config
    pictures = AANLIBSource(AANLIBConfig(root=str(source), split="all"))
    numbers: dict[str, list[int]] = {}
    for index, case in enumerate(pictures.cases):
        numbers.setdefault(case, []).append(index)
    parts = {case: part for part in PARTS for case in SPLITS[part]}
    return [
        Pair(case, None, None, "same subject", parts[case], pictures=_Pictures(pictures, indices))
        for case, indices in numbers.items()
    ]


class _Pictures(Sequence[Example]):
    """Pictures of one case, decoded when they are asked for: a bad one is its case's own trouble."""

    def __init__(self, source: AANLIBSource, indices: list[int]) -> None:
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        return self._source[self._indices[index]]


LAYOUTS: dict[str, Callable[[Path, PrepareConfig], list[Pair]]] = {
    "chaos": _chaos,
    "mmwhs": _mmwhs,
    "table": _table,
    "aanlib": _aanlib,
}


def _check_subjects(source: Path, pairs: list[Pair]) -> None:
    seen: set[str] = set()
    for pair in pairs:
        if not SUBJECT_NAME.fullmatch(pair.subject) or len(pair.subject) > 100:
            what = f"subject {pair.subject[:60]!r} cannot name a folder"
            raise FileError(f"{source}:", what, "use letters, digits, _, - and .")
        if pair.subject.lower() in seen:
            raise FileError(
                f"{source}:", f"subject {pair.subject} is there twice", "give each pair a subject of its own"
            )
        seen.add(pair.subject.lower())


def _check_out(out: Path, source: Path, pairs: list[Pair]) -> None:
    """Refuse to write where scans lie, however the two folders are spelt, or where nothing can be written.

    Raises:
        ValueError: a scan lies in ``out``, ``out`` lies in a scan's folder, or a file to write is one of the scans or
            leads out of ``out``.
    """
    scans = [path for pair in pairs for path in (pair.ct, pair.mr, pair.label) if path is not None]
    scans += [source] if any(pair.pictures for pair in pairs) else []
    for scan in scans:
        if contains(out, scan):
            raise FileError(out, f"holds the scan {scan}, and scans are only read", "write to a folder of its own")
        if scan.is_dir() and contains(scan, out):
            raise FileError(out, f"lies in the scan {scan}, and scans are only read", "write to a folder of its own")
    check_writable(out, folder=True)
    places = [out / MANIFEST, out / QC, *(out / pair.subject / name for pair in pairs for name in SUBJECT_FILES)]
    given = {(state.st_dev, state.st_ino) for state in map(Path.stat, filter(Path.is_file, [*scans, source]))}
    for place in places:
        if not place.exists() and not place.is_symlink() and not place.parent.is_symlink():
            continue
        if not contains(out, place):
            raise FileError(place, "leads to another folder by a link", "write to a folder of its own")
        if place.is_dir():
            raise FileError(place, "is a folder, and a file is written there", "write to a folder of its own")
        if place.exists() and (place.stat().st_dev, place.stat().st_ino) in given:
            raise FileError(place, "is one of the inputs, which are only read", "write to a folder of its own")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def _finished(out: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the records of an earlier run into the same folder, of the same settings."""
    file = out / MANIFEST
    if not file.exists():
        return {}
    manifest = read_json(file, "a manifest of this program", "write to another folder")
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise FileError(file, "is not a manifest of this program", "write to another folder")
    made_so = (manifest["format"], manifest.get("settings")) == (FORMAT, settings)
    if not made_so or manifest.get(DIGEST) not in (None, digest_of(manifest)):
        return {}
    check_records(file, manifest)
    return {record["subject"]: record for record in manifest["subjects"]}


def _prepare_subject(pair: Pair, out: Path, config: PrepareConfig, before: dict[str, Any] | None) -> dict[str, Any]:
    """Write the files of one subject and return its record; of the same input, keep what is there."""
    inputs = _fingerprints(pair)
    folder = out / pair.subject
    if before and before.get("inputs") == inputs and before.get("asked_split") == pair.split:
        files = before["files"]
        if all((folder / name).is_file() and sha256_of(folder / name) == digest for name, digest in files.items()):
            return before
    ct, mr, label = _read(pair)
    record: dict[str, Any] = {
        "subject": pair.subject,
        "pairing": pair.pairing,
        "asked_split": pair.split,
        "inputs": inputs,
        "shape": list(mr.data.shape),
        "spacing": [round(float(length), 6) for length in mr.spacing],
        "orientation": "unknown" if pair.pictures or not any(mr.codes) else orientation(mr),
        "slice_axis": slice_axis(mr),
        "empty": [index for index, image in enumerate(to_slices(mr)) if not np.ptp(image)],
        "registration": None,
        "ct_coverage": 1.0 if pair.pictures else 0.0,
        "good": True,
    }
    volumes = {"mr.nii.gz": mr}
    if label is not None:
        volumes["label.nii.gz"] = label
    if pair.pictures:
        record["names"] = [example.name for example in pair.pictures]
        if ct is not None:  # pictures come in pairs
            volumes["ct.nii.gz"] = ct
    elif ct is not None:
        record["ct_range"] = [round(float(ct.data.min()), 3), round(float(ct.data.max()), 3)]
        ct = clean_ct(ct) if config.clean else ct
        if pair.pairing == "unpaired":
            ct = _centred(ct, mr)
        found = register(ct, mr, RegistrationConfig(kind=config.registration, threshold=config.threshold))
        volumes["ct.nii.gz"] = apply(found, ct, mr, outside=AIR)
        ones = Volume(np.ones_like(ct.data), ct.affine)
        covered = float(resample(ones, mr, order=0).data.mean())
        coverage = float(apply(found, ones, mr, order=0, outside=0.0).data.mean())
        record["ct_coverage"] = round(coverage, 6)
        record["good"] = found.good and coverage >= MIN_COVERAGE * covered
        record["registration"] = {
            "kind": config.registration,
            "quality": {name: round(float(value), 6) for name, value in sorted(found.quality.items())},
            "transform": found.transform.round(6).tolist(),
        }
    for name, volume in volumes.items():
        write_nifti(folder / name, volume)
    record["files"] = {name: sha256_of(folder / name) for name in sorted(volumes)}
    return record


def _manifest(
    records: list[dict[str, Any]],
    failed: int,
    settings: dict[str, Any],
    config: PrepareConfig,
    *,
    complete: bool,
) -> dict[str, Any]:
    """Share out the subjects and put the records together."""
    used = [record for record in records if record["good"] or config.keep_flagged]
    shared = share_out([record["subject"] for record in used if not record["asked_split"]], seed=config.seed)
    splits = {record["subject"]: record["asked_split"] or shared[record["subject"]] for record in used}
    subjects = [
        record
        | {
            "split": splits.get(record["subject"], LEFT_OUT),
            "window": PICTURE if "names" in record else config.window,
        }
        for record in records
    ]
    manifest = {
        "format": FORMAT,
        "complete": complete,
        "failed": failed,  # how many: a name that was refused as a person's own goes no further
        "settings": settings,
        "pairing": pairing_of(records),
        "subjects": sorted(subjects, key=lambda record: record["subject"]),
    }
    return manifest | {DIGEST: digest_of(manifest)}


def _fingerprints(pair: Pair) -> dict[str, str]:
    """Return a digest of the bytes of every input, without the names of its files."""
    if pair.pictures:
        images = {"ct": [example.ct for example in pair.pictures], "mr": [example.target for example in pair.pictures]}
        return {
            kind: hashlib.sha256(b"".join(image.tobytes() for image in images[kind])).hexdigest() for kind in images
        }
    paths = {"ct": pair.ct, "mr": pair.mr, "label": pair.label}
    return {kind: fingerprint(path) for kind, path in paths.items() if path is not None}


def _read(pair: Pair) -> tuple[Volume | None, Volume, Volume | None]:
    """Return CT, MR and the MR's labels."""
    if pair.pictures:
        ct, mr = (_stack(images) for images in zip(*((e.ct, e.target.real) for e in pair.pictures), strict=True))
        return ct, mr, None
    if pair.mr is None:
        raise ValueError("there is no MR; every subject needs one")
    mr = read_scan(pair.mr, "MR")
    ct = None if pair.ct is None else read_scan(pair.ct, "CT")
    for scan in (mr, *([] if ct is None else [ct])):
        if is_name_of(scan, pair.subject):
            raise ValueError("this is the patient's own name or number; give the subject a code in the table")
    if ct is not None and pair.pairing == "same subject" and not is_same_person(ct, mr):
        raise ValueError("CT and MR are of different people by their headers; correct the table")
    label = None if pair.label is None else _read_label(pair.label, mr)
    return None if ct is None else ct.volume, mr.volume, label


def _centred(ct: Volume, mr: Volume) -> Volume:
    """Move the CT so that its body's centre is that of the MR: headers of different people share no coordinates."""
    affine = ct.affine.copy()
    affine[:3, 3] += _body_centre(mr) - _body_centre(ct)
    return dataclasses.replace(ct, affine=affine)


def _body_centre(volume: Volume) -> np.ndarray:
    centre = np.mean(np.nonzero(body_mask(volume)), axis=1)
    return volume.affine[:3, :3] @ centre + volume.affine[:3, 3]


def _stack(images: Sequence[np.ndarray]) -> Volume:
    """Stack pictures to a volume of unknown place and spacing, as ``to_slices`` turns it back."""
    if len(sizes := {image.shape for image in images}) > 1:
        raise ValueError(f"its pictures have sizes {sorted(sizes)}; resample them to one")
    data = np.stack(images).transpose(2, 1, 0)
    return Volume(np.ascontiguousarray(data, np.float32), np.diag([-1.0, -1.0, 1.0, 1.0]), codes=(0, 1), through=2)


def _read_label(path: Path, mr: ScannedVolume) -> Volume:
    """Read the labels of an MR: a volume on its grid, or one picture a slice in the order of its files' names."""
    if path.is_file():
        label = read_scan(path, "MR").volume
    else:
        pictures = _natural(path.glob("*.png"))
        ranks = {name: rank for rank, name in enumerate(sorted(mr.files))}
        if len(pictures) != len(ranks):
            raise ValueError(f"{path} holds {len(pictures)} pictures for {len(ranks)} slices; wanted one each")
        images = [np.asarray(read_png(pictures[ranks[name]]).convert("L")) for name in mr.files]
        if len(sizes := {image.shape for image in images}) > 1:
            raise ValueError(f"{path} holds pictures of sizes {sorted(sizes)}; wanted those of the MR")
        data = np.stack(images).transpose(2, 1, 0).astype(np.float32, order="C")
        label = dataclasses.replace(mr.volume, data=data)
    if label.data.shape != mr.volume.data.shape or not np.allclose(label.affine, mr.volume.affine, rtol=0, atol=1e-2):
        raise ValueError(f"{path} lies on another grid than its MR; wanted labels of the same voxels")
    return label


def _summary(record: dict[str, Any]) -> str:
    """Return one line on a subject."""
    low, high = record.get("ct_range", (AIR, 0.0))
    doubt = f"; its CT spans {low:g} to {high:g}, without air: are these Hounsfield units?" if low > -200 else ""
    quality = record["registration"]["quality"] if record["registration"] else {}
    numbers = ", ".join(
        f"{name.replace('_', ' ')} {value:.3f}" for name, value in quality.items() if "before" not in name
    )
    numbers += f"{', ' if numbers else ''}CT coverage {record['ct_coverage']:.2f}"
    return f"{record['subject']} ({record['pairing']}): {record['split']}{f'; {numbers}' if numbers else ''}{doubt}"


def _natural(paths: Any) -> list[Path]:
    """Sort by name, with numbers in their order, leaving hidden files out."""
    kept = [path for path in paths if not path.name.startswith(".")]
    return sorted(kept, key=lambda path: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", path.name)])


if __name__ == "__main__":
    from atlf_jax.commands import run

    run("prepare", program="python -m atlf_jax.data.prepare")
