//! The values of a row, as places in its record's text. Pure.

use std::num::NonZeroU32;

/// What the columns get, by place in the layout's fields. Most of it stands in the record's text as it is stored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cells {
    places: Vec<Place>,
    /// What does not stand there.
    text: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Place {
    start: u32,
    /// None is null. No text ends at 0: before one in a record is a brace or a quote, and before others a blank.
    end: Option<NonZeroU32>,
    elsewhere: bool,
}

impl Cells {
    /// All null.
    pub fn new(width: usize) -> Cells {
        Cells { places: vec![Place::default(); width], text: String::new() }
    }

    /// What they take in memory besides the record.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.places.len() * size_of::<Place>()
    }

    pub fn get<'a>(&'a self, record: &'a str, at: usize) -> Option<&'a str> {
        let place = self.places.get(at)?;
        let text = if place.elsewhere { self.text.as_str() } else { record };
        text.get(place.start as usize..place.end?.get() as usize)
    }

    pub fn set(&mut self, at: usize, record: &str, value: Option<&str>) {
        let Some(place) = self.places.get_mut(at) else { return };
        let Some(value) = value else {
            *place = Place::default();
            return;
        };
        // A part of the record is told by where it lies.
        let begin = (value.as_ptr() as usize).checked_sub(record.as_ptr() as usize);
        let inside = begin.filter(|begin| *begin > 0 && begin + value.len() <= record.len());
        let start = inside.unwrap_or_else(|| {
            if self.text.is_empty() {
                self.text.push(' ');
            }
            self.text.push_str(value);
            self.text.len() - value.len()
        });
        let end = NonZeroU32::new((start + value.len()) as u32);
        *place = Place { start: start as u32, end, elsewhere: inside.is_none() };
    }
}
