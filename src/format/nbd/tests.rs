use super::*;

/// Numbers one after the other, as they are on the wire.
fn wire(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn an_option_is_known_by_its_magic() {
    let mut header = *b"IHAVEOPT\0\0\0\x07\0\0\x01\x02";
    assert_eq!(OptionHeader::parse(&header), Some(OptionHeader { option: opt::GO, data_bytes: 0x102 }));
    header[0] = b'i';
    assert_eq!(OptionHeader::parse(&header), None);
}

#[test]
fn an_export_is_asked_for_by_name_and_with_what_is_to_be_told() {
    let asked = wire(&[b"\0\0\0\x04head", b"\0\x02", b"\0\x03\0\x01"]);
    assert_eq!(
        ExportRequest::parse(&asked),
        Some(ExportRequest { name: "head", infos: vec![info::BLOCK_SIZE, info::NAME] })
    );
    assert_eq!(ExportRequest::parse(b"\0\0\0\0\0\0"), Some(ExportRequest { name: "", infos: vec![] }));
    for cut in 0..asked.len() {
        assert_eq!(ExportRequest::parse(&asked[..cut]), None, "{cut}");
    }
    assert_eq!(ExportRequest::parse(&wire(&[&asked, b"x"])), None);
    assert_eq!(ExportRequest::parse(b"\xff\xff\xff\xffhead\0\0"), None);
    assert_eq!(ExportRequest::parse(b"\0\0\0\x01\xff\0\0"), None, "names are UTF-8");
}

#[test]
fn contexts_are_asked_for_by_export_and_query() {
    let asked = wire(&[b"\0\0\0\0", b"\0\0\0\x02", b"\0\0\0\x05base:", b"\0\0\0\x0fbase:allocation"]);
    assert_eq!(
        MetaRequest::parse(&asked),
        Some(MetaRequest { name: "", queries: vec!["base:", BASE_ALLOCATION] })
    );
    for cut in 0..asked.len() {
        assert_eq!(MetaRequest::parse(&asked[..cut]), None, "{cut}");
    }
    let absurd = wire(&[b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\0"]);
    assert_eq!(MetaRequest::parse(&absurd), None);
}

#[test]
fn a_request_is_known_by_its_magic() {
    let mut bytes = [0; REQUEST_BYTES];
    bytes[..8].copy_from_slice(&[0x25, 0x60, 0x95, 0x13, 0, 4, 0, 7]);
    bytes[8..16].copy_from_slice(&[9; 8]);
    bytes[16..24].copy_from_slice(&(1u64 << 40).to_be_bytes());
    bytes[24..].copy_from_slice(&4096u32.to_be_bytes());
    let request = Request {
        command: Command::BlockStatus,
        flags: command_flag::DF,
        cookie: 0x0909_0909_0909_0909,
        offset_bytes: 1 << 40,
        length_bytes: 4096,
    };
    assert_eq!(Request::parse(&bytes), Some(request));
    bytes[7] = 200;
    assert_eq!(Request::parse(&bytes).map(|r| r.command), Some(Command::Unknown(200)));
    bytes[3] = 0x14;
    assert_eq!(Request::parse(&bytes), None);
}

#[test]
fn replies_are_as_the_protocol_has_them() {
    let cookie = 0x0102_0304_0506_0708;
    assert_eq!(
        simple_reply(cookie, Some(Errno::Io)),
        *b"\x67\x44\x66\x98\0\0\0\x05\x01\x02\x03\x04\x05\x06\x07\x08"
    );
    assert_eq!(
        hole_chunk(cookie, false, 16, 512),
        *b"\x66\x8e\x33\xef\0\0\0\x02\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\x0c\0\0\0\0\0\0\0\x10\0\0\x02\0"
    );
    assert_eq!(
        data_chunk_header(cookie, true, 16, 3),
        *b"\x66\x8e\x33\xef\0\x01\0\x01\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\x0b\0\0\0\0\0\0\0\x10"
    );
    assert_eq!(
        block_status_chunk(cookie, 1, &[(4096, state::HOLE | state::ZERO)]),
        b"\x66\x8e\x33\xef\0\x01\0\x05\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\x0c\0\0\0\x01\0\0\x10\0\0\0\0\x03"
    );
    assert_eq!(
        error_chunk(cookie, Errno::Invalid, "no"),
        b"\x66\x8e\x33\xef\0\x01\x80\x01\x01\x02\x03\x04\x05\x06\x07\x08\0\0\0\x08\0\0\0\x16\0\x02no"
    );
    assert_eq!(none_chunk(cookie)[..8], *b"\x66\x8e\x33\xef\0\x01\0\0");
}

#[test]
fn option_replies_are_as_the_protocol_has_them() {
    assert_eq!(
        server_reply(opt::LIST, "a", "b c"),
        b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x03\0\0\0\x02\0\0\0\x08\0\0\0\x01ab c"
    );
    assert_eq!(info_export(512, 0x103), b"\0\0\0\0\0\0\0\0\x02\0\x01\x03");
    assert_eq!(info_block_size(), b"\0\x03\0\0\0\x01\0\0\x10\0\x02\0\0\0");
    assert_eq!(export_name_reply(512, 3, false).len(), 10);
    assert_eq!(export_name_reply(512, 3, true).len(), 134);
}

#[test]
fn long_texts_are_clipped_between_characters() {
    let long = "é".repeat(MAX_STRING_BYTES);
    let text = info_text(info::DESCRIPTION, &format!("x{long}"));
    assert_eq!(text.len(), 2 + MAX_STRING_BYTES - 1);
    assert!(std::str::from_utf8(&text[2..]).is_ok());
}
