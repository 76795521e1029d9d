"""Sixty strings that would break a page which trusted them. Each that could run sets `window.canary`."""

RUN = "window.canary=1"
HOSTILE_60 = (
    # elements and handlers
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"</ScRiPt ><sCrIpT >{RUN}</sCrIpT >",
    f"<img src=x onerror={RUN}>",
    f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f"<details open ontoggle={RUN}>",
    f"<body onload={RUN}>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    f"<math><mtext><table><mglyph><style><img src onerror={RUN}>",
    f"<a href='javascript:{RUN}'>x</a>",
    "<meta http-equiv=refresh content='0;url=https://example.org'>",
    "<base href='https://example.org/'>",
    "<link rel=stylesheet href=https://example.org/x.css>",
    f"<form action=javascript:{RUN}><button autofocus>",
    f"<input autofocus onfocus={RUN}>",
    f"</title><script>{RUN}</script>",
    f"</style><script>{RUN}</script>",
    f"</textarea></noscript><script>{RUN}</script>",
    f"<template><script>{RUN}</script></template>",
    # comments, CDATA, states of the script parser
    f"<!--<script>{RUN}//-->",
    "<!--<script>",
    "--><h1>x</h1><!--",
    f"<![CDATA[<script>{RUN}</script>]]>",
    f"]]><script>{RUN}</script>",
    "<?xml version='1.0'?><!DOCTYPE x [<!ENTITY y SYSTEM 'file:///etc/passwd'>]>&y;",
    # out of an attribute
    f'" onmouseover="{RUN}" x="',
    f"' onfocus='{RUN}' autofocus='",
    f"`onmouseover={RUN}",
    f'"><script>{RUN}</script>',
    # entities, which must not be decoded twice
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;img src=x onerror=alert(1)&#62;",
    "&amp;amp;&nbsp;&notit;",
    # templates
    "{{ 7*7 }}{{ suite.__class__ }}",
    "{% include '/etc/passwd' %}{% raw %}",
    "{# comment #}${7*7}#{7*7}<%= 7*7 %>",
    "%s %d %n {0.__class__} $HOME $(id)",
    # JSON, JavaScript and CSS
    f'"}};{RUN};{{"a":"',
    f'\\";{RUN}//',
    f"';{RUN};//\\",
    "__proto__",
    "constructor",
    "toString",
    f"x;background:url(javascript:{RUN});expression({RUN})",
    "}*{display:none}/*",
    f"javascript:{RUN}",
    f"data:text/html,<script>{RUN}</script>",
    "$\\frac{1}{0}$ \\input{/etc/passwd} $$",
    # formulas of spreadsheets
    '=HYPERLINK("https://example.org";"x")',
    "+1+cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd",
    # what cannot be seen, or reorders
    "nul\x00<b>\x01\x1b[2J\x07\x7f\r",
    "right\u202eto left\u202c\u2066\u2069",
    "zero\u200b\ufeff\u00adwidth\u2060",
    "lines\u2028and\u2029paragraphs\x85",
    "tags\U000e0041\U000e0042 private\ue000",
    # other scripts, emoji, length
    "👩‍👩‍👧‍👦🏳️‍🌈🇪🇺",
    "שלום עולם مرحبا",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢ ﷽",
    "long" * 1500,
)
SURROGATE = "lone \ud800 surrogate \udfff"
"""JSON can hold it, UTF-8 cannot."""
