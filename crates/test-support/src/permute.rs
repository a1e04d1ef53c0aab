//! The row order of queries and keys in GGUF files of the `llama` family.

/// Reorders the rows of every head from halves to pairs: row `half·D/2 + i` of a head becomes row `2·i + half`.
///
/// Hugging Face rotates row i with row i + D/2 of a head, llama.cpp rotates neighbours; its converter therefore
/// stores permuted rows. `rows` is [heads · D, columns], contiguous.
///
/// # Panics
/// If `rows` does not divide into `heads` heads of an even number of rows: a bug in the caller.
pub(crate) fn halves_to_pairs(rows: &[f32], heads: usize, columns: usize) -> Vec<f32> {
    let head_dim = rows.len() / (heads * columns);
    assert_eq!(rows.len(), heads * head_dim * columns, "whole heads");
    assert!(
        head_dim.is_multiple_of(2),
        "rotary pairs need an even head dim, found {head_dim}"
    );
    let mut permuted = Vec::with_capacity(rows.len());
    for head in rows.chunks_exact(head_dim * columns) {
        let (first, second) = head.split_at(head.len() / 2);
        for (a, b) in first
            .chunks_exact(columns)
            .zip(second.chunks_exact(columns))
        {
            permuted.extend_from_slice(a);
            permuted.extend_from_slice(b);
        }
    }
    permuted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written from the reader's side: where does row r of a head in halves order lie in the file?
    fn pairs_to_halves(rows: &[f32], heads: usize, columns: usize) -> Vec<f32> {
        let head_dim = rows.len() / (heads * columns);
        let mut restored = Vec::new();
        for head in 0..heads {
            for row in 0..head_dim {
                let (half, i) = (row / (head_dim / 2), row % (head_dim / 2));
                let start = (head * head_dim + 2 * i + half) * columns;
                restored.extend_from_slice(&rows[start..start + columns]);
            }
        }
        restored
    }

    #[test]
    fn rows_of_the_second_half_go_between_those_of_the_first() {
        assert_eq!(halves_to_pairs(&[0., 1., 2., 3.], 1, 1), [0., 2., 1., 3.]);
        assert_eq!(halves_to_pairs(&[0., 1., 2., 3.], 2, 1), [0., 1., 2., 3.]);
    }

    #[test]
    fn unpermuting_gives_the_rows_back() {
        for (heads, head_dim, columns) in [(1, 2, 1), (3, 8, 5), (4, 16, 64), (2, 6, 1)] {
            let rows: Vec<f32> = (0..heads * head_dim * columns).map(|x| x as f32).collect();
            let permuted = halves_to_pairs(&rows, heads, columns);
            assert_eq!(pairs_to_halves(&permuted, heads, columns), rows);
        }
    }
}
