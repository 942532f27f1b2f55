//! What was measured, as a table or JSON, beside what was measured before.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::case::Case;
use super::figure::{Figure, Series};
use crate::exit::Usage;
use crate::output::table;

/// Everything that was measured.
#[derive(Debug)]
pub(super) struct Report {
    cases: Vec<Measured>,
    before: Option<Before>,
}

/// One case, over all runs.
#[derive(Debug)]
struct Measured {
    case: String,
    workload: &'static str,
    options: Value,
    figures: Vec<Series>,
}

/// An earlier report, as far as it is compared: medians by case and figure.
#[derive(Clone, Debug)]
pub(super) struct Before(BTreeMap<String, BTreeMap<String, f64>>);

#[derive(Deserialize)]
struct Earlier {
    cases: Vec<EarlierCase>,
}

#[derive(Deserialize)]
struct EarlierCase {
    case: String,
    figures: BTreeMap<String, EarlierFigure>,
}

#[derive(Deserialize)]
struct EarlierFigure {
    median: f64,
}

impl Before {
    /// Reads what `--output json` wrote.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let wrong = |cause: &dyn std::fmt::Display| {
            let advice = "name a file that `taffrail bench ... --output json` wrote";
            Usage(format!("cannot compare with {}: {cause}; {advice}", path.display()))
        };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
        let earlier: Earlier = serde_json::from_str(&text).map_err(|error| wrong(&error))?;
        let medians = |case: EarlierCase| {
            let figures = case.figures.into_iter().map(|(name, figure)| (name, figure.median));
            (case.case, figures.collect())
        };
        Ok(Self(earlier.cases.into_iter().map(medians).collect()))
    }

    fn median(&self, case: &str, figure: &str) -> Option<f64> {
        self.0.get(case)?.get(figure).copied()
    }
}

impl Report {
    pub(super) fn new(cases: &[Case], before: Option<Before>) -> Self {
        let measured = |case: &Case| Measured {
            case: case.name.clone(),
            workload: case.work.name(),
            options: case.work.options(),
            figures: Vec::new(),
        };
        Self { cases: cases.iter().map(measured).collect(), before }
    }

    /// Adds a run of a case.
    pub(super) fn add(&mut self, case: &Case, figures: Vec<Figure>) -> anyhow::Result<()> {
        let measured = self.cases.iter_mut().find(|measured| measured.case == case.name);
        let measured = measured.context("a case is reported that was not announced")?;
        for figure in figures {
            match measured.figures.iter_mut().find(|series| series.name == figure.name) {
                Some(series) => series.add(figure.value),
                None => measured.figures.push(Series::new(figure)),
            }
        }
        Ok(())
    }

    pub(super) fn text(&self) -> String {
        let is_spread = self.cases.iter().flat_map(|it| &it.figures).any(|it| it.count() > 1);
        let mut header = vec!["CASE", "FIGURE"];
        header.extend(if is_spread { &["MEDIAN", "MIN", "MAX"][..] } else { &["VALUE"] });
        if self.before.is_some() {
            header.extend(["BEFORE", "NOW / BEFORE"]);
        }
        let mut rows = Vec::new();
        for Measured { case, figures, .. } in &self.cases {
            for (index, series) in figures.iter().enumerate() {
                let case_shown = if index == 0 { case.as_str() } else { "" };
                let mut row = vec![case_shown.to_owned(), name(series)];
                row.push(series.unit.text(series.median()));
                if is_spread {
                    row.extend([series.min(), series.max()].map(|value| series.unit.text(value)));
                }
                if let Some(before) = &self.before {
                    let median = before.median(case, &series.name);
                    row.push(median.map_or_else(|| "-".to_owned(), |it| series.unit.text(it)));
                    row.push(ratio(series.median(), median));
                }
                rows.push(row);
            }
        }
        let numeric: Vec<_> = (2..header.len()).collect();
        table(&header, &numeric, rows)
    }

    pub(super) fn json(&self) -> Value {
        let case = |measured: &Measured| {
            let figures = measured.figures.iter();
            let figures =
                figures.map(|series| (series.name.clone(), self.figure(measured, series)));
            json!({
                "case": measured.case,
                "workload": measured.workload,
                "options": measured.options,
                "figures": figures.collect::<serde_json::Map<_, _>>(),
            })
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cases": self.cases.iter().map(case).collect::<Vec<_>>(),
        })
    }

    fn figure(&self, measured: &Measured, series: &Series) -> Value {
        let mut figure = series.json();
        let before = self.before.as_ref();
        if let Some(median) = before.and_then(|it| it.median(&measured.case, &series.name)) {
            figure["before"] = median.into();
        }
        figure
    }
}

/// What people call a figure: its value says the unit.
fn name(series: &Series) -> String {
    let name = series.name.as_str();
    let name = name.strip_suffix("_us").or(name.strip_suffix("_s")).unwrap_or(name);
    name.replace('_', " ")
}

fn ratio(now: f64, before: Option<f64>) -> String {
    match before {
        Some(before) if before != 0.0 => format!("{:.2}", now / before),
        _ => "-".to_owned(),
    }
}
