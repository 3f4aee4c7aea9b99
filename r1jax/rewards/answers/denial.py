"""Detects whether a text denies, supposes or retracts an answer.

"It is false that the answer is 5" does not answer 5, nor does "if the answer
is 5", nor "the answer is 5. No, that is wrong". Only words that refer to the
answer count: before it, if they are joined to it only by words such as "that"
and "is"; after it, if they follow directly or are unmistakable ("I was wrong").
Two negations cancel ("no doubt the answer is 5").

Texts are untrusted and may be long: every pattern here takes linear time.
"""

from __future__ import annotations

import re

REACH = 160  # characters before an answer that are searched
_ADJECTIVE = 24  # characters directly before "answer" that are searched
_BEHIND = 2_000  # characters after an answer that are searched

_NEGATIONS = frozenset(
    r"""not never cannot hardly scarcely false falsely untrue incorrect
    incorrectly wrong wrongly mistaken mistakenly impossible unlikely doubt
    doubts doubted doubtful deny denies denied reject rejects rejected refute
    refutes refuted disprove disproves disproved nobody no none neither nor
    without absurd nonsense lie myth exclude excludes excluded unless invalid
    contrary negation opposite ≠ \ne \neq ¬ \neg \lnot \not""".split())
# Negations that deny what follows them directly, as in "not 5".
_AT_ONCE = frozenset(
    r"not never cannot hardly scarcely neither nor without unless ≠ \ne \neq ¬"
    r" \neg \lnot \not".split())
_SUPPOSITIONS = frozenset(
    """if suppose supposes supposing supposed assume assumes assuming assumed
    imagine whether pretend hypothetically""".split())
_LINKS = frozenset(
    r"""that the a an my our your its it this these those he she they we one
    you i who is are was were be been being am to of in as at by for here there
    true case correct correctly right final only possible sure certain clear
    way think thinks believe believes say says said saying claim claims claimed
    claiming conclude concludes concluding mean means know knows agree agrees
    accept suggest suggests imply implies hold holds can could should must will
    would may might really actually simply just quite exactly fact answer
    answers answered result results value output outcome solution solutions
    option choice set list any anyone somebody someone all which what either
    such statement conclusion idea other than equal equals have has had do does
    did given necessarily following out ruled rule always even ever let us now
    table grid return returns give gives print prints yield yields text
    texttt textbf mathrm $ = * _ ` " ' ( [ { “
    ‘ \text \textbf \mathrm \( \[""".split())
PHRASES = re.compile(
    r"\b(?:anything but|everything (?:but|except)|all but|except(?: for)?"
    r"|far from|opposite of|no longer|instead of|rather than|other than|ruled?"
    r" out|anything other than)\b|~~|\\[xb]?cancel\b|\\sout\b",
    re.IGNORECASE)
_REASON = re.compile(
    r"\s*(?:\w+\s+)?(?:since|because|as|given)\b", re.IGNORECASE)
# "Some say that the answer is", "my first guess was that".
_OTHERS = re.compile(
    r"\b(?:(?:some|somebody|someone|many|most|others?|people|students?|one|you"
    r"|he|she|they|everybody|everyone|it|nobody)\s(?:\w{1,12}\s){0,3}?(?:think"
    r"|say|believe|claim|guess|expect|argue|suppose|conclude)s?(?:ed)?"
    r"|(?:first|initial|early)\s(?:guess|thought|idea|impression)\s(?:is|was)"
    r"|(?:might|may|could|would)\s(?:seem|appear|look)(?:\slike)?"
    r"|at first(?:\s(?:sight|glance|look))?)"
    r"\s(?:that\s)?(?:the\s|my\s|our\s)?(?:\w{1,12}\s)?\Z", re.IGNORECASE)
_WORD = re.compile(
    r"\\[A-Za-z]+|\\.|[^\W\d_]+(?:['’][^\W\d_]+)?|\d+|[^\s\w]|_")
# A text without any of these words denies nothing.
_TELLING = _NEGATIONS | _SUPPOSITIONS | frozenset(
    r"""but except far opposite longer instead rather than rule ruled out ~
    \cancel \xcancel \bcancel \sout think thinks say says believe believes claim
    claims guess guesses guessed expect expects argue argues suppose conclude
    concludes thought idea impression seem appear look first""".split())
_STOP = re.compile(r"[.;!?,。；！？，\n]")
_ZH_BEFORE = re.compile(
    r"(?:不(?:是|为|会|可能|能|应该?|等于|认为|一定)?|并?非|(?:错误?|不对|不正确|不成立)的?"
    r"(?=答案|结果)|否认|没有?|未必|莫|如果|假如|假设|假定|若|倘若|要是|是否"
    r"|以为|(?:有人|有些人|有的人|有同学|[他她它]们?|大家|人们)(?:会|可能|也许)?(?:认为|说|觉得|猜)"
    r"|难道)(?:是|为|会|能|说|认为|成立|选|等于)*(?:最终|正确|本题|此题|的)*(?:答案|结果"
    r"|选项)?(?:是|为|选|等于|[:：=\s$*(（\\])*\Z")
_ZH_BLOCK = re.compile(
    r"(?:(?:错误?|不对|不正确|不成立)的?|不是)(?:表格?|答案|列表|结果|解|的)?[:：]?\s*\Z")
_WRONG_ANSWER = re.compile(
    r"(?:\b(?:wrong|incorrect|false|invalid|mistaken|erroneous|bad|naive"
    r"|tempting|impossible|unacceptable|rejected|discarded|draft|earlier"
    r"|previous|old|retracted)\s+|错误的?|(?<![对])错的?"
    r"|不正确的?|不对的)\Z", re.IGNORECASE)

_WRONG = (
    r"(?:(?:all|clearly|actually|just|obviously|also|of course|completely"
    r"|surely|definitely|certainly|simply|still|too|quite|really)\s+){0,2}"
    r"(?:wrong|incorrect|false|untrue|mistaken|impossible|invalid|nonsense"
    r"|unacceptable|retracted|a (?:mistake|lie|joke|contradiction|trap|wrong)"
    r"|an (?:error|incorrect|invalid)|not?\s+(?:right|correct|true|it|so|valid"
    r"|possible|acceptable|good|what (?:i|we|was)|my|our|quite (?:right|true|it"
    r"|correct)|(?:the|an?)\s+(?:answer|solution|case|right|correct|one|final"
    r"|result|truth|valid|possible|good))|not?\s*(?:[.,;!。]|\Z))"
    r"(?!\s+(?:that|to|for|of|in|if|on|at|about|when)\b)")
_BE = (r"(?:['’]s|\s+is|\s+was|\s+are|\s+were|\s+looks|\s+seems|\s+must be"
       r"|\s+would be|\s+will be)")
_NOT_BE = (
    r"(?:(?:\s+(?:is|was)n['’]t|\s+(?:cannot|can['’]t|could not|couldn['’]t)"
    r" be)\s+(?:right|correct|true|it|so|possible|valid"
    r"|the (?:answer|right|case))"
    r"|\s+(?:doesn['’]t|does not|can['’]t|cannot)\s+(?:work|fit|hold|satisfy)"
    r"|\s+fails\b)")
_CLOSE = r"[\s$*_`)\]}\"'”’|\\]{0,20}"
# Directly after the answer, in the same sentence.
_SAME = re.compile(
    rf"{_CLOSE}(?:[,，]\s*)?(?:which|but (?:that|this|it))?"
    rf"(?:{_BE}\s+{_WRONG}|{_NOT_BE}"
    r"|\s*(?:是|为)?(?:错误?的|不对|不正确|不成立|不可能|不是答案|错误"
    r"|错了))", re.IGNORECASE)
_CLOSING = " \t\n.,;*_`$)]}\"'”’|\\。"
_AS_QUESTION = re.compile(rf"{_CLOSE}(?:[?？]|吗|么[?？])")
_CALLS = (r"(?:(?:but|oh|hmm+|wait|hold on|sorry|oops|ah|well|um|er|no|nope|ok"
          r"|okay|however|actually|although|though)\b[\s,.!…—–-]{0,6}){0,5}")
_CALLED = _CALLS.replace("{0,5}", "{1,5}")
_THAT = (r"(?:that|this|it|which|(?:(?:that|this|the|my)(?: above| previous"
         r"| last| first| earlier| draft| initial)? (?:answer|result|solution"
         r"|table|grid|draft|guess|list)(?: above| before| i gave)?))")
_PLAIN = (
    r"(?:just kidding|i (?:take|withdraw|retract) (?:that|it|this|my|the)"
    r"|i (?:was|am) (?:wrong|mistaken|in error)|i(?: have|['’]ve)? ma[dk]e"
    r" an? (?:\w{1,12} )?(?:mistake|error|slip)|on second thou?ghts?"
    r"|(?:scratch|strike) (?:that|this|it)|(?:disregard|ignore|forget|discard)"
    r" (?:that|this|it|the above|what i|my (?:first|last|answer))|i misread"
    r"|i miscounted|i miscalculated|i made (?:that|it|this) up)\b"
    r"|correction\s*[:：]|更正|纠正一下|我(?:算|看|弄|搞)?错了?|算错了|作废"
    r"|(?:上述|上面|以上|前面|之前|刚才)[^。\n]{0,8}(?:是错|不对|错了|有误|错误|作废)")
_GAP = r"[\s$*_`)\]}\"'”’|\\.。!！?？,，;；…—–:~-]{0,30}"
# In the next sentence: called wrong, or retracted in other words.
_CALLED_WRONG = re.compile(
    _GAP + "(?:" + "|".join([
        rf"{_CALLS}{_THAT}{_BE}\s+{_WRONG}",
        rf"{_CALLS}{_THAT}{_NOT_BE}",
        rf"{_CALLS}{_THAT}\s+(?:contradicts|violates|breaks|leads to a"
        r" contradiction)(?!\s+(?:no|none|nothing)\b)",
        rf"{_CALLS}not (?:really|so|quite|at all|true|correct|right|exactly"
        r"|any ?more)\b",
        r"(?:但是?|可是|其实)?(?:这|那|该|此|它)(?:个|一)?(?:答案|结果|结论)?"
        r"(?:是|并)?(?:错|不对|不正确|不成立|不可能|不是|有误)",
    ]) + ")", re.IGNORECASE)
_NEXT = re.compile(
    _GAP + "(?:" + "|".join([
        r"(?:oh |hmm+,? |but )?no(?:pe)?(?=\s*(?:[,.!;:…—–-]|\Z)|\s+(?:it|that"
        r"|this|the|wait|i)\b)",
        r"(?:wait|hmm+|hold on)[\s,.!…—–-]{1,6}(?:no|not|it is|it['’]s|the"
        r" answer|i was|i think it|actually)\b",
        r"actually[\s,]{1,3}(?:no|not|it|that|this|the|i|make that)\b",
        r"actually[\s,:]{1,3}\S{1,30}[\s*.!)]{0,4}\Z",
        r"(?:or )?rather[\s,:]", r"i mean\b", r"make that\b", r"instead[,:]",
        r"(?:but )?i (?:doubt|don['’]t think|do not think|don['’]t believe"
        r"|do not believe|disagree)\b",
        rf"{_CALLS}{_PLAIN}",
        r"(?:但是?|可是|哦|嗯|其实)?[，,]?(?:不[,，。！!]|不对|不是(?:[,，。！!]|这样|的|\Z)"
        r"|错了|错[,，。！]|等等|等一下|应该是|应为|开玩笑)",
    ]) + ")", re.IGNORECASE)
# Anywhere after the answer.
_LATER = re.compile(
    rf"(?:\A|(?<=[.!?。！？\n,，;；*—–-])\s{{0,3}})(?:{_CALLED}{_THAT}{_BE}\s+"
    rf"{_WRONG}|(?:the|my|that|this) (?:(?:above|previous|first|earlier|last"
    r"|draft|initial) )?(?:answer|result|solution|table|grid|draft)(?: above"
    rf"| before| i gave)?{_BE}\s+{_WRONG}|{_CALLS}{_PLAIN})",
    re.IGNORECASE)
# After an answer such as "no", "that is false" may be the explanation.
_SAYS_NO = re.compile(
    r"(?:\b(?:no|false|incorrect|invalid|wrong|not|none|never|impossible|untrue"
    r"|inconsistent|unsatisfiable|f|n)|[否错假]|错误|无解)"
    r"[\s$*_`)\]}\"'”’|\\]{0,20}\Z", re.IGNORECASE)


def denied(before: str, block: bool = False) -> bool:
  """Whether the text before an answer denies or only supposes it.

  "It is not true that the answer is", "x \\ne", "some say", "如果答案是".

  Args:
    before: the text up to the answer; its last `REACH` characters are used.
    block: whether the answer is a block such as a list or a table. Then a
      denial may end in a colon: "these are wrong:". Otherwise it may not,
      because "it is impossible: 0" answers 0.
  """
  before = before[-REACH:].rstrip()
  if not before.isascii() and (
      _ZH_BEFORE.search(before) or block and _ZH_BLOCK.search(before)):
    return True
  clause = _STOP.split(before)[-1]
  told = clause.rstrip(":：")
  words = _WORD.findall(told.casefold().replace("’", "'"))
  if _TELLING.isdisjoint(words) and "n't" not in told:
    return False  # the usual case
  if _REASON.match(told):
    return False
  if _OTHERS.search(told + " "):
    return True
  words = _WORD.findall(PHRASES.sub(" not ", told).casefold())
  if told != clause and not block:
    return words[-1:] in (["not"], ["never"], ["wrong"])
  negations = links = 0
  for word in reversed(words):
    word = word.replace("’", "'")
    if word.endswith("n't") or word in _NEGATIONS:
      negations += bool(links or block or word in _AT_ONCE or (
          word.endswith("n't")))
    elif word in _SUPPOSITIONS:
      return True
    elif word not in _LINKS and not (len(word) == 1 and word.isalpha()):
      break
    links += word.isalpha() and len(word) > 1
  return negations % 2 == 1


def wrong_answer(before: str) -> bool:
  """Whether the text before "answer" calls it wrong: "the wrong", "错误的"."""
  return _WRONG_ANSWER.search(before[-_ADJECTIVE:]) is not None


def asked(text: str, end: int) -> bool:
  """Whether the answer that ends at `end` is a question: "it is 5?"."""
  return _AS_QUESTION.match(text, end) is not None


def retracted(text: str, end: int) -> bool:
  """Whether the answer that ends at `end` is retracted, directly or later."""
  behind = text[end:end + _BEHIND]
  return bool(behind.strip(_CLOSING)) and (
      taken_back(text, end) or _LATER.search(behind) is not None)


def taken_back(text: str, end: int) -> bool:
  """Whether the words directly after the answer that ends at `end` retract it.
  """
  behind = text[end:end + _BEHIND]
  if not behind.strip(_CLOSING):
    return False
  if _SAME.match(behind) or _NEXT.match(behind):
    return True
  return _CALLED_WRONG.match(behind) is not None and not (
      _SAYS_NO.search(text[max(0, end - 60):end]))


def kept(text: str) -> str:
  """The text after the last retraction of what came before it."""
  return text[max((m.end() for m in _LATER.finditer(text)), default=0):]
