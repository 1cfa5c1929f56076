//! Tables that know how wide letters are, and that fit the terminal if there is one.

use console::{measure_text_width, pad_str, truncate_str};

const GAP: &str = "  ";

/// Where the text of a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// One column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    /// Its heading.
    pub(crate) title: &'static str,
    /// Where its text stands.
    pub(crate) align: Align,
    /// Narrowest it may be made if the table does not fit; `None`: never cut.
    pub(crate) width_min: Option<usize>,
}

impl Column {
    /// Words that are never cut.
    pub(crate) const fn words(title: &'static str) -> Self {
        Self {
            title,
            align: Align::Left,
            width_min: None,
        }
    }

    /// Words that are cut if need be.
    pub(crate) const fn long_words(title: &'static str) -> Self {
        Self {
            width_min: Some(16),
            ..Self::words(title)
        }
    }

    /// Numbers.
    pub(crate) const fn numbers(title: &'static str) -> Self {
        Self {
            align: Align::Right,
            ..Self::words(title)
        }
    }
}

/// Rows under headings.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(columns: impl Into<Vec<Column>>) -> Self {
        Self {
            columns: columns.into(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with one text per column.
    pub(crate) fn row(&mut self, texts: impl Into<Vec<String>>) {
        let texts: Vec<String> = texts
            .into()
            .iter()
            .map(|text| super::printable(text).into_owned())
            .collect();
        debug_assert_eq!(texts.len(), self.columns.len(), "one text per column");
        self.rows.push(texts);
    }

    /// The lines of the table, each with its end. `columns_max`: cut long words so that lines are no wider than this.
    pub(crate) fn render(&self, columns_max: Option<usize>) -> String {
        let widths = self.widths(columns_max);
        let titles: Vec<String> = self
            .columns
            .iter()
            .map(|column| column.title.to_owned())
            .collect();
        let mut text = String::new();
        let show_titles = titles.iter().any(|title| !title.is_empty());
        for row in show_titles.then_some(&titles).into_iter().chain(&self.rows) {
            let mut line = String::new();
            for ((cell, column), width) in row.iter().zip(&self.columns).zip(&widths) {
                if !line.is_empty() {
                    line.push_str(GAP);
                }
                let cell = truncate_str(cell, *width, "…");
                let alignment = match column.align {
                    Align::Left => console::Alignment::Left,
                    Align::Right => console::Alignment::Right,
                };
                line.push_str(&pad_str(&cell, *width, alignment, None));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn widths(&self, columns_max: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, column)| {
                self.rows
                    .iter()
                    .map(|row| measure_text_width(&row[index]))
                    .chain([measure_text_width(column.title)])
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let Some(columns_max) = columns_max else {
            return widths;
        };
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        // The widest column that can give way gives one column at a time: so long words end up equally cut.
        while widths.iter().sum::<usize>() + gaps > columns_max {
            let widest = widths
                .iter_mut()
                .zip(&self.columns)
                .filter(|(width, column)| column.width_min.is_some_and(|min| **width > min))
                .max_by_key(|(width, _)| **width);
            match widest {
                Some((width, _)) => *width -= 1,
                None => break,
            }
        }
        widths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new([
            Column::long_words("NAME"),
            Column::numbers("SIZE"),
            Column::words("NOTE"),
        ]);
        table.row(["smollm2:135m".into(), "98.9 MiB".into(), String::new()]);
        table.row([
            "unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M".into(),
            "17.3 GiB".into(),
            "猫頭鷹".into(),
        ]);
        table
    }

    #[test]
    fn columns_line_up_whatever_the_letters() {
        assert_eq!(
            table().render(None),
            "\
NAME                                   SIZE  NOTE
smollm2:135m                       98.9 MiB
unsloth/Qwen3-30B-A3B-GGUF:Q4_K_M  17.3 GiB  猫頭鷹
"
        );
    }

    #[test]
    fn long_words_give_way_and_numbers_do_not() {
        let text = table().render(Some(40));
        assert!(
            text.lines().all(|line| measure_text_width(line) <= 40),
            "{text}"
        );
        assert!(text.contains("unsloth/Qwen3-30B-A3B…  17.3 GiB"), "{text}");
        let narrow = table().render(Some(10));
        assert!(narrow.contains("17.3 GiB"), "{narrow}");
    }
}
