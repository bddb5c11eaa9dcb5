"""HTML of the Train tab: the data with its mask, and the progress of a training."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from model.translations import LocalizedText, translate
from training.job import Job
from training.preview import Piece, Preview

WIDTH, HEIGHT, MARGIN = 640, 180, 34
MAX_POINTS = 300  # of a curve
Points = Sequence[tuple[int, float]]


def data_view(preview: Preview, language: str) -> str:
    """Returns the first chats. What is learned is marked; the other text is only context."""
    head = escape(
        translate(language, "train_counts", count=preview.count, tokens=round(preview.mean_tokens))
    )
    legend = f"<mark>{escape(translate(language, 'train_learned'))}</mark>"
    parts = [f"<p>{head} {legend} {escape(translate(language, 'train_read'))}</p>"]
    if preview.bad:
        reasons = LocalizedText("reasons", {"reasons": preview.reasons}).message(language)
        bad = translate(language, "train_bad_rows", bad=preview.bad, reasons=reasons)
        parts.append(f"<p class='warn'>{escape(bad)}</p>")
    parts += [f"<p class='warn'>{escape(note.sentence(language))}</p>" for note in preview.notes]
    parts.append(f"<p class='note'>{escape(translate(language, 'train_checked'))}</p>")
    parts += [f"<pre>{''.join(map(_piece, chat))}</pre>" for chat in preview.chats]
    return "".join(parts)


def _piece(piece: Piece) -> str:
    return f"<mark>{escape(piece.text)}</mark>" if piece.learned else escape(piece.text)


def job_view(job: Job | None, language: str) -> str:
    """Returns the state of a training, and its losses so far."""
    if job is None:
        return ""
    parts = [f"<p><b>{escape(job.name)}</b>: {escape(_state(job, language))}</p>"]
    if job.running:
        parts.append(_bar(job, language))
    parts += [f"<p class='note'>{escape(note.sentence(language))}</p>" for note in job.notes]
    if job.losses:
        parts.append(_curve(job, language))
    return "".join(parts)


def _state(job: Job, language: str) -> str:
    if job.running and job.cancelling:
        return translate(language, "train_cancelling")
    if job.running:
        return translate(language, f"train_stage_{job.stage}")
    return translate(
        language, f"train_{job.phase}", text=job.text.sentence(language) if job.text else ""
    )


def _bar(job: Job, language: str) -> str:
    step = job.step
    if step is None:
        return "<progress></progress>"
    text = translate(
        language, "train_step", step=step.step, steps=step.steps, loss=f"{step.loss:.3f}",
        speed=round(step.tokens_per_second), minutes=int(step.seconds_left // 60),
        seconds=f"{int(step.seconds_left % 60):02}",
    )  # fmt: skip
    return f"<progress value='{step.step}' max='{step.steps}'></progress> {escape(text)}"


def _curve(job: Job, language: str) -> str:
    """Returns the losses over the steps as SVG."""
    last = max(job.step.steps if job.step else 0, job.losses[-1][0], 1)
    top = max(loss for _, loss in (*job.losses, *job.measured)) or 1.0

    def place(point: tuple[int, float]) -> str:
        x = MARGIN + (WIDTH - 2 * MARGIN) * point[0] / last
        y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * point[1] / top
        return f"{x:.1f},{y:.1f}"

    stride = -(-len(job.losses) // MAX_POINTS)
    learned = " ".join(map(place, job.losses[::stride]))
    measured = [place(point) for point in job.measured]
    dots = "".join(
        f"<circle cx='{x}' cy='{y}' r='3'/>" for x, y in (point.split(",") for point in measured)
    )
    title = escape(translate(language, "train_curve"))
    steps = escape(translate(language, "train_steps", steps=last))
    return (
        f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img' aria-label='{title}'>"
        f"<title>{title}</title>"
        f"<path d='M{MARGIN},{MARGIN} V{HEIGHT - MARGIN} H{WIDTH - MARGIN}' class='axis'/>"
        f"<polyline points='{learned}' class='learned'/>"
        f"<polyline points='{' '.join(measured)}' class='measured'/>"
        f"<g class='measured'>{dots}</g>{_axis_labels(top, steps)}</svg>"
        f"{_legend(language)}"
    )


def _axis_labels(top: float, steps: str) -> str:
    """Returns the labels of the largest loss, of 0, and of the last step."""
    return (
        f"<text x='{MARGIN}' y='{MARGIN - 8}'>{top:.1f}</text>"
        f"<text x='{MARGIN}' y='{HEIGHT - MARGIN + 16}'>0</text>"
        f"<text x='{WIDTH - MARGIN}' y='{HEIGHT - MARGIN + 16}' text-anchor='end'>{steps}</text>"
    )


def _legend(language: str) -> str:
    return (
        "<p class='note'>"
        f"<span class='learned'>—</span> {escape(translate(language, 'train_loss'))} "
        f"<span class='measured'>●</span> {escape(translate(language, 'train_held_out'))}</p>"
    )
