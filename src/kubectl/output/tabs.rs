//! Aligns cells that end with tabs, as Go's text/tabwriter does: a column is as wide as its widest cell
//! in a block of adjoining lines that have the column.

/// Aligns text; cells are at least `least` wide and followed by `padding` spaces.
pub(crate) fn align(text: &str, least: usize, padding: usize) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> =
        lines.iter().map(|line| vec![0; line.len().saturating_sub(1)]).collect();
    let deepest = widths.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..deepest {
        let mut start = 0;
        while start < lines.len() {
            let end = (start..lines.len()).find(|line| widths[*line].len() <= column).unwrap_or(lines.len());
            let widest = lines[start..end].iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
            widths[start..end].iter_mut().for_each(|line| line[column] = (widest + padding).max(least));
            start = end + 1;
        }
    }
    let mut out = String::with_capacity(text.len() * 2);
    for (line, widths) in lines.iter().zip(&widths) {
        for (cell, width) in line.iter().zip(widths) {
            out.push_str(cell);
            out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
        }
        out.push_str(line.last().copied().unwrap_or_default());
        out.push('\n');
    }
    out
}

/// A cell's text may not break the table.
pub(crate) fn cell(text: &str) -> String {
    text.replace(['\t', '\n', '\r'], " ")
}

/// The first line of a cell's text, which may not break the table nor steer the terminal.
pub(crate) fn first_line(text: std::borrow::Cow<'_, str>) -> String {
    if !text.contains(|sign: char| sign.is_control()) {
        return text.into_owned();
    }
    let end = text.find(['\n', '\r', '\u{c}']);
    let line = text[..end.unwrap_or(text.len())].replace('\t', " ").replace('\u{1b}', "^[");
    if end.is_some() { line + "..." } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_their_own_widths() {
        let text = "NAME\tREADY\tAGE\nlonger-name\t1/1\t5s\n";
        assert_eq!(align(text, 6, 3), "NAME          READY   AGE\nlonger-name   1/1     5s\n");
        let text = "Name:\tx\nLabels:\t<none>\nplain line\na\tb\n";
        assert_eq!(align(text, 0, 2), "Name:    x\nLabels:  <none>\nplain line\na  b\n");
    }
}
