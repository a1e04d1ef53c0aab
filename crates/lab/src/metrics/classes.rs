//! Classification by naming a class.

/// `1 / m` where `m` counts the classes that the answer contains, 0 if the true one is not among
/// them. A class that is merely a part of the true one's name does not count.
pub(super) fn classification(prediction: &str, reference: &str, classes: &[String]) -> f64 {
    let mut named: Vec<&str> = classes
        .iter()
        .map(String::as_str)
        .filter(|class| prediction.contains(class))
        .collect();
    // As published: the walk steps over the class that moves up into a removed one's place.
    let mut index = 0;
    while let Some(class) = named.get(index) {
        if reference.contains(class) && *class != reference {
            named.remove(index);
        }
        index += 1;
    }
    if named.contains(&reference) {
        return 1.0 / named.len() as f64;
    }
    0.0
}
