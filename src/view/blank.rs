//! A layer without a file: all of it is a hole.
//!
//! Stands in for the child of a purge that was cut short between removing the child's file and linking the
//! parent's, which holds everything, under its name. The engine makes an empty file there, with the same effect.

use crate::error::Result;
use crate::model::extent::{ExtentList, ExtentSource};
use crate::view::LayerImage;

/// A layer that holds nothing.
#[derive(Clone, Debug)]
pub struct Blank {
    name: String,
}

impl Blank {
    /// The empty layer called `name`.
    pub fn new(name: &str) -> Self {
        Blank { name: name.to_owned() }
    }
}

impl LayerImage for Blank {
    fn name(&self) -> &str {
        &self.name
    }

    fn size_bytes(&self) -> u64 {
        0
    }

    fn extents(&self) -> Result<Box<dyn ExtentSource + '_>> {
        Ok(Box::new(ExtentList::default()))
    }

    fn read_exact_at(&self, buf: &mut [u8], _offset_bytes: u64) -> Result<()> {
        buf.fill(0);
        Ok(())
    }
}
