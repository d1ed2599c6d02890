// Every text of the interface: [English, Chinese]. What Python knows, the names of the method
// and of the marks, comes with the payload.

/** @type {Record<string, [string, string]>} */
export const WORDS = {
  // the frame
  viewer: ["PEFT trace viewer", "PEFT 记录查看器"],
  on: ["on", "·"],
  lead: [
    "You see one recorded run, line by line: the calls as bars, the code, its variables, and " +
      "below what reached the base model.",
    "这里逐行显示一次录制的运行：上方条形是各次调用，中间是代码和变量，下方是传入基础模型的内容。",
  ],
  lead_line: ["next line", "下一行"],
  lead_change: ["next change of a tensor", "下一次张量变化"],
  lead_base: ["next call of the base model", "下一次基础模型调用"],
  lead_help: ["all keys", "全部按键"],
  virtual_n: ["{0} virtual tokens", "{0} 个虚拟词元"],
  virtual_1: ["1 virtual token", "1 个虚拟词元"],
  language: ["Language", "语言"],
  help: ["Keys and marks", "按键与图例"],
  close: ["Close", "关闭"],
  broken: ["This recording could not be shown: {0}", "无法显示这份记录：{0}"],
  no_calls: [
    "Nothing was recorded: no watched function was called inside record().",
    "没有记录到内容：record() 中没有调用被观察的函数。",
  ],
  // moving
  first: ["First step", "第一步"],
  prev: ["Previous step", "上一步"],
  next: ["Next step", "下一步"],
  last: ["Last step", "最后一步"],
  play: ["Play", "播放"],
  pause: ["Pause", "暂停"],
  step_of: ["step {0} of {1}", "第 {0} / {1} 步"],
  timeline: ["Steps in the order they ran", "按执行顺序排列的步骤"],
  next_change: ["Next change of a tensor", "下一次张量变化"],
  next_decision: ["Next decision", "下一个判断"],
  jump_change: ["change", "变化"],
  jump_decision: ["decision", "判断"],
  base_n: ["base call {0} of {1}", "基础模型调用 {0} / {1}"],
  base_slider: ["Calls of the base model", "基础模型的各次调用"],
  prev_base: ["Previous call of the base model", "上一次基础模型调用"],
  next_base: ["Next call of the base model", "下一次基础模型调用"],
  go_error: ["Go to the line that raised", "跳到抛出异常的行"],
  // the code
  source: ["Source", "源代码"],
  line: ["line {0}", "第 {0} 行"],
  no_source: [
    "The source of this function was not found when it was recorded.",
    "录制时没有找到此函数的源代码。",
  ],
  call_path: ["Calls", "调用"],
  // the variables
  variables: ["Variables", "变量"],
  others: ["Unchanged", "未变"],
  after_line: ["Changed by this line", "这一行改变的"],
  nothing: ["This line changed no variable.", "这一行没有改变变量。"],
  called_with: ["Called with", "调用参数"],
  calling: ["This line is calling", "这一行正在调用"],
  condition: ["The condition is", "条件为"],
  returns: ["returns", "返回"],
  raises: ["raises", "抛出"],
  new: ["new", "新"],
  rebound: ["rebound", "重新赋值"],
  "in-place": ["in-place", "原地修改"],
  deleted: ["deleted", "已删除"],
  alias: ["= shares storage with {0}", "= 与 {0} 共享存储"],
  before: ["before", "之前"],
  after: ["after", "之后"],
  empty: ["empty", "空"],
  more_rows: ["{0} more rows", "另有 {0} 行"],
  cut: [
    "Too large to be kept whole: only the first {0} of {1} numbers were recorded.",
    "太大，没有全部保留：只记录了前 {0} 个数（共 {1} 个）。",
  ],
  drawn: ["Only the first {0} of {1} columns are drawn.", "只画出前 {0} 列，共 {1} 列。"],
  // roles of a value
  attention_mask: ["attention mask", "注意力掩码"],
  labels: ["labels", "标签"],
  embeddings: ["embeddings", "嵌入"],
  cache: ["cache", "缓存"],
  positions: ["positions", "位置"],
  type_mask: ["type mask", "类型掩码"],
  ids: ["token ids", "词元 ID"],
  logits: ["logits", "logits"],
  loss: ["loss", "损失"],
  // the base model
  model: ["Base model", "基础模型"],
  base_model: ["base model", "基础模型"],
  forward: ["forward pass", "前向传播"],
  prefill: ["prefill", "预填充"],
  decode: ["decoding step {0}", "解码第 {0} 步"],
  reached: ["Reached the base model", "传入基础模型"],
  will_reach: ["Will reach the base model", "将传入基础模型"],
  came_back: ["Came back", "返回"],
  paused: [
    "The recorder does not look inside the base model: this is exactly what reached it, and what " +
      "it gave back.",
    "录制器不进入基础模型：这里是实际传入它的内容，以及它返回的内容。",
  ],
  upcoming: ["not called yet: comes at step {0}", "尚未调用：将在第 {0} 步"],
  recent: ["called at step {0}", "在第 {0} 步被调用"],
  now: ["this step", "当前步"],
  running: ["running: ends at step {0}", "运行中：第 {0} 步结束"],
  not_yet: ["not yet: comes at step {0}", "尚未：在第 {0} 步"],
  no_base: ["The base model was not called here.", "这里没有调用基础模型。"],
  no_inputs: [
    "What each position held was not kept, or the call got no inputs.",
    "没有保留各位置的内容，或者这次调用没有输入。",
  ],
  go: ["Go to this call", "跳到这次调用"],
  sequence: ["Sequence", "序列"],
  row: ["row {0}", "第 {0} 行"],
  batch_row: ["row", "批次行"],
  layers: ["Layers", "层"],
  layers_all: ["all {0} layers", "全部 {0} 层"],
  mask: ["mask", "掩码"],
  label: ["label", "标签"],
  position: ["position", "位置"],
  in_cache: ["in the cache", "在缓存中"],
  this_call: ["this call's inputs", "本次输入"],
  window: ["columns {0}–{1} of {2}", "第 {0}–{1} 列，共 {2} 列"],
  earlier: ["Earlier columns", "前面的列"],
  later_columns: ["Later columns", "后面的列"],
  lost: [
    "{0}: too large to be kept whole, so not shown here.",
    "{0}：太大，没有全部保留，因此这里不显示。",
  ],
  attention: ["Attention as measured", "注意力（实测）"],
  keys: ["key", "键"],
  queries: ["query", "查询"],
  may: ["query {0} may attend to key {1}", "查询 {0} 可以看到键 {1}"],
  may_not: ["query {0} may not attend to key {1}", "查询 {0} 看不到键 {1}"],
  at: ["{0} at {1}", "位置 {1} 的 {0}"],
  pairs: [
    "{2} of {3} query–key pairs may attend ({0} × {1})",
    "{3} 个查询–键对（{0} × {1}）中 {2} 个可见",
  ],
  no_attention: [
    "The attention layers of this call got no mask that could be read.",
    "这次调用的注意力层没有可读的掩码。",
  ],
  large_attention: [
    "The attention mask {0} was too large to be kept.",
    "注意力掩码 {0} 太大，没有保留。",
  ],
  cache_line: ["{0} → {1} tokens", "{0} → {1} 个词元"],
  cache_later: ["{0} tokens → not yet", "{0} 个词元 → 尚未"],
  of_max: ["of {0}", "共 {0}"],
  of_them: ["{0} virtual", "其中虚拟 {0}"],
  added: ["+{0} in this call", "本次 +{0}"],
  tokens_n: ["{0} tokens", "{0} 个词元"],
  nothing_back: ["nothing: the call raised", "无：调用抛出异常"],
  // help
  keys_title: ["Keys", "按键"],
  key_step: ["next / previous step", "下一步 / 上一步"],
  key_change: ["next / previous change of a tensor", "下一次 / 上一次张量变化"],
  key_decision: ["next / previous decision", "下一个 / 上一个判断"],
  key_call: ["next / previous call", "下一个 / 上一个调用"],
  key_base: [
    "next / previous call of the base model (decoding step)",
    "下一次 / 上一次基础模型调用（解码步）",
  ],
  key_ends: ["first / last step", "第一步 / 最后一步"],
  key_play: ["play / pause", "播放 / 暂停"],
  key_help: ["this list", "本列表"],
  keys_focus: [
    "Keys work while the viewer has the focus. Click a line of source to go to the step that " +
      "ran it.",
    "查看器获得焦点时按键有效。点击一行源代码可跳到执行它的步骤。",
  ],
  link: [
    "In a file of its own, the address ends in #step=… and can be copied as a link.",
    "在单独的文件中，地址以 #step=… 结尾，可以作为链接复制。",
  ],
  marks: ["Marks", "图例"],
  changed_cell: ["changed or new", "有变化或新增"],
  faint: ["faint: has not happened yet", "浅色：尚未发生"],
};

/** Put values into the places {0}, {1} of a text. @param {string} text @param {any[]} values */
export const fill = (text, values) => text.replace(/\{(\d)\}/g, (_, i) => String(values[i]));

/** A text of the interface in language 0 or 1. @param {string} word @param {0 | 1} lang */
export function say(word, lang, ...values) {
  return fill((WORDS[word] || [word, word])[lang], values);
}
