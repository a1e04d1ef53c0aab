//! Colours that can be told apart, also by people who see few of them, on both backgrounds.
//! Every policy has a mark of its own besides, and every cell its number.

/// A colour per policy on a light and on a dark ground. Contrast is 3 : 1 at least (WCAG 1.4.11).
pub(super) const SERIES: [(&str, &str); 8] = [
    ("#0072b2", "#56b4e9"),
    ("#c44e00", "#ff9040"),
    ("#007a5a", "#2cc99a"),
    ("#a2457e", "#e69ac6"),
    ("#7a6200", "#e6c229"),
    ("#5b4fc4", "#a79cff"),
    ("#505050", "#c0c0c0"),
    ("#b0202a", "#ff7b84"),
];

pub(super) const LIGHT: &str = "#ffffff";
pub(super) const DARK: &str = "#14171a";
/// Text on either ground: 7 : 1 at least.
pub(super) const LIGHT_TEXT: &str = "#1c2127";
pub(super) const DARK_TEXT: &str = "#e4e8ec";
const LIGHT_LINE: &str = "#d5dae0";
const DARK_LINE: &str = "#3a424a";

/// The page's style sheet.
pub(super) fn css() -> String {
    let mut css = format!(
        ":root{{color-scheme:light dark;--ground:{LIGHT};--text:{LIGHT_TEXT};--line:{LIGHT_LINE}"
    );
    for (index, (light, _)) in SERIES.iter().enumerate() {
        css.push_str(&format!(";--s{index}:{light}"));
    }
    css.push_str(&format!(
        "}}\n@media (prefers-color-scheme:dark){{:root{{--ground:{DARK};--text:{DARK_TEXT};--line:{DARK_LINE}"
    ));
    for (index, (_, dark)) in SERIES.iter().enumerate() {
        css.push_str(&format!(";--s{index}:{dark}"));
    }
    css.push_str("}}\n");
    css.push_str(
        "body{background:var(--ground);color:var(--text);font:15px/1.45 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem}\n\
         h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}\n\
         figure{margin:1rem 0;overflow-x:auto}figcaption{font-weight:600;margin-bottom:.3rem}\n\
         .few{display:flex;flex-wrap:wrap;gap:0 1.5rem}\n\
         table{border-collapse:collapse;font-variant-numeric:tabular-nums}\n\
         .wide{overflow-x:auto}th,td{padding:.2rem .6rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}\n\
         th:nth-child(-n+2),td:nth-child(-n+2){text-align:left}\n\
         .legend{list-style:none;display:flex;flex-wrap:wrap;gap:.2rem 1.4rem;padding:0}.legend svg{vertical-align:-3px;margin-right:.4rem}\n\
         svg text{fill:var(--text);font:12px system-ui,sans-serif}svg .grid{stroke:var(--line)}svg .frame{stroke:var(--text);fill:none}\n",
    );
    for index in 0..SERIES.len() {
        css.push_str(&format!(
            "svg .c{index}{{stroke:var(--s{index});fill:none;stroke-width:2}}svg .f{index}{{fill:var(--s{index});stroke:none}}\n"
        ));
    }
    css
}

/// The fill of a score between 0 and 1, and the colour of text on it: dark blue over grey to
/// yellow, whose lightness rises all the way, so it also reads without colours.
pub(super) fn heat(score: f64) -> (String, &'static str) {
    const STOPS: [[f64; 3]; 3] = [
        [0.0, 34.0, 78.0],
        [125.0, 124.0, 120.0],
        [254.0, 232.0, 56.0],
    ];
    let place = if score.is_nan() {
        0.0
    } else {
        score.clamp(0.0, 1.0) * 2.0
    };
    let from = (place as usize).min(1);
    let share = place - from as f64;
    let channel = |index: usize| {
        let (a, b) = (STOPS[from][index], STOPS[from + 1][index]);
        (a + (b - a) * share).round() as u8
    };
    let fill = format!("#{:02x}{:02x}{:02x}", channel(0), channel(1), channel(2));
    let text = if contrast(&fill, "#ffffff") >= contrast(&fill, "#000000") {
        "#ffffff"
    } else {
        "#000000"
    };
    (fill, text)
}

/// WCAG 2.1 contrast of two `#rrggbb` colours, 1 to 21.
fn contrast(a: &str, b: &str) -> f64 {
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

fn luminance(colour: &str) -> f64 {
    let channel = |at: usize| {
        let byte = colour
            .get(at..at + 2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let value = f64::from(byte.unwrap_or(0)) / 255.0;
        if value <= 0.040_45 {
            value / 12.92
        } else {
            ((value + 0.055) / 1.055).powf(2.4)
        }
    };
    0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contrast_is_that_of_the_standard() {
        assert!((contrast("#000000", "#ffffff") - 21.0).abs() < 1e-9);
        // The lightest grey that passes 4.5 on white.
        assert!((contrast("#767676", "#ffffff") - 4.54).abs() < 0.01);
    }

    #[test]
    fn everything_can_be_seen_on_both_grounds() {
        for (light, dark) in SERIES {
            assert!(contrast(light, LIGHT) >= 3.0, "{light}");
            assert!(contrast(dark, DARK) >= 3.0, "{dark}");
        }
        assert!(contrast(LIGHT_TEXT, LIGHT) >= 7.0);
        assert!(contrast(DARK_TEXT, DARK) >= 7.0);
    }

    #[test]
    fn numbers_on_cells_can_be_read_and_lightness_rises() {
        let mut before = -1.0;
        for percent in 0..=100 {
            let (fill, text) = heat(f64::from(percent) / 100.0);
            assert!(contrast(&fill, text) >= 4.5, "{percent}: {fill} {text}");
            assert!(luminance(&fill) > before, "{percent}");
            before = luminance(&fill);
        }
        assert_eq!(heat(f64::NAN), heat(0.0));
    }
}
