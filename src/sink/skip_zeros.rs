//! A sparse file in which every sector of zeros is a hole.

use crate::error::Result;
use crate::event::Run;
use crate::model::units::ByteRange;
use crate::sink::Sink;
use crate::sink::file::OutputFile;

/// An output file to which zeros are not written, be they data or not.
pub struct SkipZeros<'a>(pub &'a OutputFile);

impl Sink for SkipZeros<'_> {
    fn write_at(&self, buf: &[u8], offset_bytes: u64) -> Result<()> {
        const SECTOR: usize = 4096;
        // Pieces begin at whole sectors, so the buffer's sectors are the volume's.
        let is_zero = |sector: &[u8]| sector.iter().all(|&b| b == 0);
        let mut done = 0;
        while done < buf.len() {
            let run = |from: usize, zero: bool| {
                let same = buf[from..].chunks(SECTOR).take_while(|sector| is_zero(sector) == zero);
                same.map(<[u8]>::len).sum::<usize>()
            };
            done += run(done, true);
            let data = run(done, false);
            if data > 0 {
                self.0.write_at(&buf[done..done + data], offset_bytes + done as u64)?;
            }
            done += data;
        }
        Ok(())
    }

    fn settle(&self, range: ByteRange) {
        self.0.settle(range);
    }

    fn needs_zeros(&self) -> bool {
        false
    }

    fn zero_range(&self, _: ByteRange, _: &Run<'_>) -> Result<()> {
        Ok(())
    }
}
