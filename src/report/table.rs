//! Tables as short as can be: no lines, and no room that is not needed.

use comfy_table::{CellAlignment, Table, presets};

/// A table; the columns in `numbers` are aligned to the right.
pub(super) fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>, numbers: &[usize]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    rows.for_each(|row| {
        table.add_row(row);
    });
    for &number in numbers {
        if let Some(column) = table.column_mut(number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}
