"""Gradio theme of the page: one accent colour, greys, and fonts of the reader's own system.

No font is fetched: without a network the page would be blank, and a font server would learn who
reads it.
"""

from __future__ import annotations

from gradio.themes import Base, sizes
from gradio.themes.utils import colors

SANS = [
    "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "PingFang SC",
    "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif",
]  # fmt: skip
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Noto Sans Mono", "monospace"]
ACCENT = "#0f766e"  # contrast of white on it: 5.5 to 1
ACCENT_HOVER = "#115e59"
ACCENT_DARK = "#5eead4"  # for text and lines on dark grey
QUIET = "#57606a"  # small text; contrast on white: 6.4 to 1
QUIET_DARK = "#a5b0bd"  # and on dark grey: 8 to 1
# Without a variable in Gradio: the accent of lines and icons in the dark, and the fields of the
# login page, which gets no other style sheet of the page.
EXTRA_CSS = f"""
.dark {{ --color-accent: {ACCENT_DARK}; }}
.gradio-container .form.form {{ background: none; gap: 1rem; }}
"""
VARIABLES = {  # of Gradio's themes
    "body_background_fill": "#ffffff",
    "body_background_fill_dark": "#16191d",
    "body_text_color": "#1f2328",
    "body_text_color_dark": "#e6e9ed",
    "body_text_color_subdued": QUIET,
    "body_text_color_subdued_dark": QUIET_DARK,
    "background_fill_primary": "#ffffff",
    "background_fill_primary_dark": "#1d2126",
    "background_fill_secondary": "#f5f7f8",
    "background_fill_secondary_dark": "#1a1e22",
    "border_color_primary": "#d8dee4",
    "border_color_primary_dark": "#353b42",
    "border_color_accent": ACCENT,
    "border_color_accent_dark": ACCENT_DARK,
    "color_accent": ACCENT,
    "color_accent_soft": "#ddf3ef",
    "color_accent_soft_dark": "#12403b",
    "link_text_color": ACCENT,
    "link_text_color_dark": ACCENT_DARK,
    "block_border_width": "0px",
    "block_shadow": "none",
    "block_shadow_dark": "none",
    "block_background_fill": "transparent",
    "block_background_fill_dark": "transparent",
    "block_label_text_color": QUIET,
    "block_label_text_color_dark": QUIET_DARK,
    "block_label_background_fill": "transparent",
    "block_label_background_fill_dark": "transparent",
    "block_label_text_weight": "500",
    "block_title_text_color": QUIET,
    "block_title_text_color_dark": QUIET_DARK,
    "block_title_text_weight": "500",
    "block_title_text_size": "*text_sm",
    "block_info_text_color": QUIET,
    "block_info_text_color_dark": QUIET_DARK,
    "block_padding": "0px",
    "input_background_fill": "#ffffff",
    "input_background_fill_dark": "#1d2126",
    "input_border_color": "#c9d1d9",
    "input_border_color_dark": "#3d444d",
    "input_border_width": "1px",
    "input_border_color_focus": ACCENT,
    "input_border_color_focus_dark": ACCENT_DARK,
    "input_placeholder_color": "#656d76",
    "input_placeholder_color_dark": "#9aa5b1",
    "button_primary_background_fill": ACCENT,
    "button_primary_background_fill_dark": ACCENT,
    "button_primary_background_fill_hover": ACCENT_HOVER,
    "button_primary_background_fill_hover_dark": ACCENT_HOVER,
    "button_primary_text_color": "#ffffff",
    "button_primary_text_color_dark": "#ffffff",
    "button_secondary_background_fill": "#f0f3f5",
    "button_secondary_background_fill_dark": "#262b31",
    "button_secondary_background_fill_hover": "#e4e9ed",
    "button_secondary_background_fill_hover_dark": "#30363d",
    "button_secondary_text_color": "#1f2328",
    "button_secondary_text_color_dark": "#e6e9ed",
    "button_cancel_background_fill": "#b42318",
    "button_cancel_background_fill_dark": "#b42318",
    "button_cancel_background_fill_hover": "#912018",
    "button_cancel_background_fill_hover_dark": "#912018",
    "button_cancel_text_color": "#ffffff",
    "button_cancel_text_color_dark": "#ffffff",
    "button_large_padding": "0.55rem 1rem",
    "button_large_text_weight": "500",
    "button_small_text_weight": "500",
    "checkbox_background_color_selected_dark": ACCENT,
    "checkbox_border_color_selected_dark": ACCENT_DARK,
    "slider_color": ACCENT,
    "slider_color_dark": ACCENT_DARK,
}


def theme() -> Base:
    """Returns the theme, for light and dark."""
    base = Base(
        primary_hue=colors.teal, secondary_hue=colors.teal, neutral_hue=colors.slate,
        font=SANS, font_mono=MONO, radius_size=sizes.radius_lg, spacing_size=sizes.spacing_md,
        text_size=sizes.text_md,
    )  # fmt: skip
    base.custom_css = EXTRA_CSS
    return base.set(**VARIABLES)
