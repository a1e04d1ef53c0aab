//! The page.

use super::lines::MEASURES;
use super::summary::{Summary, setting};
use super::svg::{Svg, colour, dash, escape};
use super::{bars, heat, lines, palette, table};

/// One file, without scripts, that loads nothing. It follows the reader's light or dark setting.
pub fn html(title: &str, summary: &Summary) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>\n{css}</style>\n</head>\n<body>\n<h1>{title}</h1>\n",
        title = escape(title),
        css = palette::css(),
    );
    quality(&mut page, summary);
    heats(&mut page, summary);
    layers(&mut page, summary);
    page.push_str("<h2>Table</h2>\n<p>Means with 95 % intervals (bootstrap over samples).</p>\n");
    page.push_str(&rows(&table::rows(summary)));
    page.push_str("<h2>Settings</h2>\n<div class=\"wide\"><table>\n");
    for (name, value) in &summary.facts {
        let (name, value) = (escape(name), escape(value));
        page.push_str(&format!("<tr><td>{name}</td><td>{value}</td></tr>\n"));
    }
    page.push_str("</table></div>\n</body>\n</html>\n");
    page
}

fn quality(page: &mut String, summary: &Summary) {
    page.push_str("<h2>Quality against bytes</h2>\n");
    page.push_str("<p>Vertical bars are 95 % intervals. Each point is one budget. Policies are set apart sideways by a few pixels, so that bars of equal bytes do not cover each other.</p>\n");
    page.push_str(&legend(&summary.policies));
    let mut tasks: Vec<&str> = summary
        .lines
        .iter()
        .map(|line| line.task.as_str())
        .collect();
    tasks.dedup();
    for task in tasks {
        for measure in &MEASURES {
            if let Some(chart) = lines::chart(summary, task, measure) {
                figure(
                    page,
                    &format!("{task}: {} ({})", measure.name, measure.unit),
                    &chart,
                );
            }
        }
    }
}

fn heats(page: &mut String, summary: &Summary) {
    if summary.heats.is_empty() {
        return;
    }
    page.push_str("<h2>Score by length and depth</h2>\n");
    page.push_str(&heat::legend());
    page.push_str("<div class=\"few\">\n");
    for of in &summary.heats {
        let caption = format!("{}: {}", of.task, setting(&of.policy, of.budget.as_deref()));
        figure(page, &caption, &heat::chart(of));
    }
    page.push_str("</div>\n");
}

fn layers(page: &mut String, summary: &Summary) {
    if summary.layers.is_empty() {
        return;
    }
    page.push_str("<h2>Rows kept per layer</h2>\n<p>Charts of one budget have one scale.</p>\n");
    page.push_str("<div class=\"few\">\n");
    for of in &summary.layers {
        let caption = setting(&of.policy, of.budget.as_deref());
        let of_budget = summary.layers.iter().filter(|l| l.budget == of.budget);
        let rows_max = of_budget
            .flat_map(|l| l.rows.iter().copied())
            .fold(0.0, f64::max);
        figure(page, &caption, &bars::chart(summary, of, rows_max));
    }
    page.push_str("</div>\n");
}

fn figure(page: &mut String, caption: &str, chart: &str) {
    let caption = escape(caption);
    page.push_str(&format!(
        "<figure><figcaption>{caption}</figcaption>\n{chart}</figure>\n"
    ));
}

fn legend(policies: &[String]) -> String {
    let mut list = "<ul class=\"legend\">\n".to_owned();
    for (index, policy) in policies.iter().enumerate() {
        let mut svg = Svg::new(34.0, 14.0);
        let class = format!("c{}", colour(index));
        svg.path(&class, dash(index), &[(1.0, 7.0), (33.0, 7.0)]);
        svg.mark(index, (17.0, 7.0), policy);
        let sign = svg.finish(policy);
        list.push_str(&format!("<li>{sign}{}</li>\n", escape(policy)));
    }
    list.push_str("</ul>\n");
    list
}

fn rows(rows: &[Vec<String>]) -> String {
    let mut html = "<div class=\"wide\"><table>\n".to_owned();
    for (index, row) in rows.iter().enumerate() {
        let tag = if index == 0 { "th" } else { "td" };
        html.push_str("<tr>");
        for cell in row {
            html.push_str(&format!("<{tag}>{}</{tag}>", escape(cell)));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
    html
}
